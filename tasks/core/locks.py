"""Locks of the kernel (flock): held by a living process, and free once it ended, however it ended."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from tasks.core.errors import Busy

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def hold_lock(path: Path, work: str) -> Iterator[bool]:
    """Hold the lock file ``path`` within the block; whoever holds it removes it at the end.

    Args:
        path: The lock file, made with its folder where it is missing.
        work: What its holder does, as `stage x is running`, for the message to a second process.

    Yields:
        Whether it is held; False, and a warning, on a file system that has no locks.

    Raises:
        Busy: Another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = _locked(path, work)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.warning("%s is on a file system without locks: start nothing twice there", path.parent)
        yield False
        return

    holder = f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S %z')}"
    try:
        with contextlib.suppress(OSError):  # a full disk holds the lock, if not who has it
            os.truncate(lock, 0)
            os.write(lock, holder.encode())
        yield True
    finally:
        if _is_at(path, lock):
            path.unlink(missing_ok=True)  # while it is locked: see _locked
        os.close(lock)


def _locked(path: Path, work: str) -> int:
    """Open ``path`` and lock it; return its descriptor."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, lock):
                return lock
            os.close(lock)  # the former holder has just removed it
        except BlockingIOError:
            holder = os.read(lock, 1000).decode() or "another process"
            os.close(lock)
            raise Busy(
                f"{work} already: by {holder}", "wait until that process ends, or end it, and run again"
            ) from None
        except OSError:
            os.close(lock)
            raise


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
