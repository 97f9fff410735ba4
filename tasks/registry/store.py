"""Where the registry's bytes lie: a store that can create what is absent, and never changes it after.

Everything above rests on :meth:`Store.put` alone, *create if absent*: the first of many writers of
a key wins, the others are told so, and no reader ever sees a part of an object. A folder gives it
with a finished draft and a hard link; an object store gives it with ``If-None-Match: *``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from tasks.core.errors import ConfigError, RegistryError, StorageError

_BLOCK = 1 << 20
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DRAFTS = ".drafts"  # no key can begin with a dot, so drafts are never listed
_STALE_SECONDS = 86_400
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class MissingKey(RegistryError):
    """The store holds nothing under a key."""


class Store(Protocol):
    """Objects under slash-separated keys, each created once, whole, and never changed.

    Attributes:
        label: Where the store is, for messages.
    """

    label: str

    def put(self, key: str, content: bytes | Path) -> bool:
        """Create ``key`` from bytes or a file; return False, changing nothing, when it is there."""
        ...

    def get(self, key: str) -> bytes:
        """Return an object's bytes; :class:`MissingKey` when there is none."""
        ...

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield an object's bytes in blocks; :class:`MissingKey` when there is none."""
        ...

    def exists(self, key: str) -> bool:
        """Tell whether an object stands under ``key``."""
        ...

    def children(self, prefix: str) -> list[str]:
        """Return the sorted names right below ``prefix`` ("" is the root), without hidden ones."""
        ...

    def list_keys(self, prefix: str) -> list[str]:
        """Return the sorted keys of all objects below ``prefix``, however deep; refuse what is none."""
        ...


def open_store(root: str) -> Store:
    """Open the registry's store that ``root`` names: the path of a folder.

    Raises:
        ConfigError: It is an address that no store here can open.
    """
    if "://" in root:
        raise ConfigError(f"the registry's root {root} is not a folder", "give a path, as in models/registry")
    return FolderStore(Path(root))


class FolderStore:
    """A folder as a store. It may lie on a network disk, as long as that knows hard links.

    A draft is written and synced under `.drafts/`, then linked to its final name: `link` refuses
    what exists, on every POSIX file system, and shows a file only when it is whole. Objects are
    read-only. A draft left behind by a killed process is swept a day later.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.label = str(root)

    def put(self, key: str, content: bytes | Path) -> bool:
        """Create ``key`` durably if it is absent; see :class:`Store`."""
        path = self._path(key)
        if path.exists():
            return False
        draft = self._new_draft()
        try:
            self._fill(draft, content)
            self._make_folders(path.parent)
            is_created = self._link(draft, path)
            self._sync_folder(path.parent)
            return is_created
        except OSError as error:
            error.filename = error.filename or str(path)  # a write on a full disk does not say where
            raise
        finally:
            draft.unlink(missing_ok=True)

    def get(self, key: str) -> bytes:
        """Return the bytes of ``key``; see :class:`Store`."""
        return b"".join(self.stream(key))

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield the bytes of ``key`` in blocks; see :class:`Store`."""
        with self._open(key) as source:
            while block := source.read(_BLOCK):
                yield block

    def exists(self, key: str) -> bool:
        """Tell whether ``key`` is there; see :class:`Store`."""
        return self._path(key).is_file()

    def children(self, prefix: str) -> list[str]:
        """Return the names below ``prefix``; see :class:`Store`."""
        folder = self._path(prefix) if prefix else self.root
        try:
            with os.scandir(folder) as entries:
                return sorted(self._checked(entry) for entry in entries if not entry.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def list_keys(self, prefix: str) -> list[str]:
        """Return all keys below ``prefix``; see :class:`Store`."""
        folder = self._path(prefix)
        if not folder.is_dir():
            return []
        found: list[str] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                key = f"{prefix}/{self._checked(entry)}"
                found += self.list_keys(key) if entry.is_dir(follow_symlinks=False) else [key]
        return sorted(found)

    def _path(self, key: str) -> Path:
        """Return the file of ``key``; refuse whatever could lead outside the root."""
        path = self.root
        for part in key.split("/"):
            if not _PART.fullmatch(part):
                raise RegistryError(f"{key!r} is no key of a registry", "use names of letters, digits and . _ -")
            path = path / part
            if path.is_symlink():
                raise _link_refused(path)
        return path

    def _checked(self, entry: os.DirEntry[str]) -> str:
        if entry.is_symlink():
            raise _link_refused(Path(entry.path))
        if not _PART.fullmatch(entry.name):
            raise RegistryError(f"{entry.path} does not belong into a registry", "take it out of there")
        return entry.name

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

    def _new_draft(self) -> Path:
        """Return a fresh name for a draft, after sweeping those that nobody can be writing any more."""
        drafts = self.root / _DRAFTS
        drafts.mkdir(parents=True, exist_ok=True)
        horizon = time.time() - _STALE_SECONDS
        for path in drafts.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_mtime < horizon:
                    path.unlink()
        return drafts / f"{os.getpid()}-{secrets.token_hex(8)}"

    def _fill(self, draft: Path, content: bytes | Path) -> None:
        """Write the draft, read-only from the start, and see it safe on the disk."""
        opened = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        with os.fdopen(opened, "wb") as target:
            if isinstance(content, bytes):
                target.write(content)
            else:
                with content.open("rb") as source:
                    shutil.copyfileobj(source, target, _BLOCK)
            target.flush()
            os.fsync(target.fileno())

    def _make_folders(self, folder: Path) -> None:
        """Make the folders down to ``folder``, each durably named in the one above it."""
        if folder.is_dir():
            return
        self._make_folders(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        self._sync_folder(folder.parent)

    def _link(self, draft: Path, path: Path) -> bool:
        """Give the finished draft its name; False when another writer was first."""
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


def _link_refused(path: Path) -> RegistryError:
    return RegistryError(f"{path} is a symbolic link, and a registry holds none", "remove it, and find who put it")
