"""A folder as the registry's store: drafts that get their final names by a hard link, on any disk that has those."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tasks.core.errors import RegistryError, StorageError
from tasks.registry.stores.store import BLOCK, MissingKey, OnBytes, Store, check_stored_name, key_parts

_DRAFTS = ".drafts"  # no key can begin with a dot, so drafts are never listed
_STALE_SECONDS = 86_400
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class FolderStore(Store):
    """A folder as a store. It may be on a network disk, if that has hard links.

    A draft is written and synced under `.drafts/`, then linked to its final name: on every POSIX file system, `link`
    refuses a name that exists, and a file appears only when it is whole. Objects are read-only. A draft that a killed
    process left is removed a day later.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.label = str(root)
        self.is_remote = False

    def put(self, key: str, content: bytes | Path, on_bytes: OnBytes | None = None) -> bool:
        """Create ``key`` durably if it is absent; see :class:`Store`."""
        path = self._path(key)
        if path.exists():
            return False
        self.sweep(_STALE_SECONDS)  # nobody is writing drafts that old
        draft = self.root / _DRAFTS / f"{os.getpid()}-{secrets.token_hex(8)}"
        draft.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._fill(draft, content, on_bytes)
            while True:
                try:
                    self._make_folders(path.parent)
                    is_created = self._link(draft, path)
                    self._sync_folder(path.parent)
                    return is_created
                except FileNotFoundError:
                    draft.stat()  # it is there: so a collection has removed the empty folder meanwhile
        except OSError as error:
            error.filename = error.filename or str(path)  # a write on a full disk does not say where
            raise
        finally:
            draft.unlink(missing_ok=True)

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield the bytes of ``key`` in blocks; see :class:`Store`."""
        with self._open(key) as source:
            while block := source.read(BLOCK):
                yield block

    def fetch(self, key: str, target: Path, on_bytes: OnBytes | None = None) -> None:
        """Copy ``key`` to a new file; see :class:`Store`."""
        with self._open(key) as source, target.open("xb") as sink:
            _copy(source, sink, on_bytes)

    def exists(self, key: str) -> bool:
        """Tell whether ``key`` exists; see :class:`Store`."""
        return self._path(key).is_file()

    def children(self, prefix: str, after: str = "") -> list[str]:
        """Return the names below ``prefix``; see :class:`Store`."""
        folder = self._path(prefix) if prefix else self.root
        try:
            with os.scandir(folder) as entries:
                shown = (entry for entry in entries if not entry.name.startswith(".") and entry.name > after)
                return sorted(_checked_name(entry) for entry in shown)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def ages(self, prefix: str) -> dict[str, float]:
        """Return all keys below ``prefix`` with their ages; see :class:`Store`."""
        ages: dict[str, float] = {}
        try:
            entries = list(os.scandir(self._path(prefix)))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        for entry in entries:
            key = f"{prefix}/{_checked_name(entry)}"
            if entry.is_dir(follow_symlinks=False):
                ages |= self.ages(key)
                continue
            with contextlib.suppress(FileNotFoundError):  # a collection has just removed it
                ages[key] = time.time() - entry.stat(follow_symlinks=False).st_mtime
        return ages

    def remove(self, key: str) -> None:
        """Remove ``key`` and the folders that are empty then; see :class:`Store`."""
        path = self._path(key)
        path.unlink(missing_ok=True)
        for folder in path.parents[: len(key_parts(key)) - 1]:
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                break  # it is not empty

    def sweep(self, older_than: float) -> int:
        """Remove old drafts; see :class:`Store`."""
        drafts, horizon, removed = self.root / _DRAFTS, time.time() - older_than, 0
        for path in drafts.iterdir() if drafts.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_mtime < horizon:
                    path.unlink()
                    removed += 1
        return removed

    def _path(self, key: str) -> Path:
        """Return the file of ``key``; refuse a key or a link that could lead outside the root."""
        path = self.root
        for part in key_parts(key):
            path = path / part
            if path.is_symlink():
                raise _link_refused(path)
        return path

    def _open(self, key: str) -> BinaryIO:
        path = self._path(key)
        try:
            return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
        except (FileNotFoundError, NotADirectoryError):
            raise MissingKey(f"{path} is missing", "see what is there with `python -m tasks.registry verify`") from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _link_refused(path) from None
            raise

    def _fill(self, draft: Path, content: bytes | Path, on_bytes: OnBytes | None) -> None:
        """Write the draft, read-only from the start, and sync it to disk."""
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        with (
            os.fdopen(descriptor, "wb") as target,
            io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source,
        ):
            _copy(source, target, on_bytes)
            target.flush()
            os.fsync(target.fileno())

    def _make_folders(self, folder: Path) -> None:
        """Make the folders down to ``folder``, and sync each new name to disk."""
        if folder.is_dir():
            return
        self._make_folders(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        self._sync_folder(folder.parent)

    def _link(self, draft: Path, path: Path) -> bool:
        """Link the finished draft to its name; return False if another writer was first."""
        try:
            os.link(draft, path, follow_symlinks=False)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in _NO_LINKS:
                what = f"the file system of {self.root} cannot make hard links ({error.strerror})"
                raise StorageError(what, "keep the registry on one that can, such as ext4, xfs or NFS") from None
            raise
        return True

    def _sync_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _checked_name(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        raise _link_refused(Path(entry.path))
    return check_stored_name(entry.name, entry.path)


def _copy(source: BinaryIO, sink: BinaryIO, on_bytes: OnBytes | None) -> None:
    while block := source.read(BLOCK):
        sink.write(block)
        if on_bytes:
            on_bytes(len(block))


def _link_refused(path: Path) -> RegistryError:
    return RegistryError(f"{path} is a symbolic link, and a registry holds none", "remove it, and find who put it")
