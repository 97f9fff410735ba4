"""One name's versions in a store: written whole, read verified, never changed.

<name>/versions/<digest>/...    files first, manifest.json last: a version exists if and only if
                                its manifest does
<name>/log/00000007.json        one numbered entry for each register, promote, roll back; see `journal.py`
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from tasks.core.errors import RegistryError
from tasks.core.files import MANIFEST, sha256_bytes
from tasks.registry.log import names
from tasks.registry.log.history import History
from tasks.registry.log.registry_log import Log
from tasks.registry.stores.store import BLOCK, MissingKey, OnBytes, Store, in_parallel
from tasks.registry.versions import manifest as entries
from tasks.registry.versions.manifest import Candidate, StoredFile, Version
from tasks.telemetry.log import bar

_HEAD = 64  # bytes that tell a file's kind
_BAR_FROM = 1 << 28  # bytes from which copying takes long enough to watch


class UnknownVersion(RegistryError):
    """A name, alias or digest names nothing there, in a registry that is sound as far as it was read."""


class Registry:
    """The versions of one name, and their log."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = names.check_name(name)
        self.log = Log(store, name)
        self._known: dict[str, Version] = {}  # what was once read of registered versions: they never change

    def history(self) -> History:
        """Read the log."""
        return self.log.read()

    def digests(self) -> list[str]:
        """Return the digests of all versions: those of the log in its order, then any cut short before it."""
        history = self.history()
        unknown = [name for name in self.store.children(f"{self.name}/versions") if name not in history.registered]
        whole = in_parallel(self.store, self.has, unknown)
        return history.kept() + [digest for digest, is_whole in zip(unknown, whole, strict=True) if is_whole]

    def has(self, digest: str) -> bool:
        """Tell whether the version exists, that is: whether its manifest does."""
        return names.is_digest(digest) and self.store.exists(self._key(digest, MANIFEST))

    def find(self, selector: str | None) -> str:
        """Return the digest that an alias, `v<serial>` or a digest's prefix names; None is `champion`.

        Raises:
            RegistryError: It names no version, or more than one; the message says what there is.
        """
        word = selector or names.CHAMPION
        history = self.history()
        if names.is_alias(word):
            found = [digest for digest in [history.holder(word)] if digest]
        elif serial := names.serial_of(word):
            found = [digest for digest, number in history.serials().items() if number == serial]
        else:
            found = [digest for digest in self.digests() if names.is_prefix(word) and digest.startswith(word)]
        if len(found) == 1:
            return found[0]
        digests = self.digests()
        if not digests:
            self.refuse_unknown()
        count = f"{len(found)} versions" if found else "no version"
        raise UnknownVersion(f"`{self.name}@{word}` names {count}", self._near_words(word, history, digests))

    def refuse_unknown(self) -> NoReturn:
        """Raise the error that says that this name has no versions, and which names there are."""
        known = names_in(self.store)
        near = difflib.get_close_matches(self.name, known, n=1, cutoff=0.5)
        advice = f"did you mean `{near[0]}`?" if near else f"names there: {', '.join(known) or 'none yet'}"
        raise UnknownVersion(f"`{self.name}` has no versions in {self.store.label}", advice)

    def read(self, digest: str) -> Version:
        """Read a version's manifest and hold it against its digest and the log.

        Raises:
            RegistryError: There is no such version, or its manifest was altered.
        """
        if digest in self._known and digest not in self.log.last.collected:
            return self._known[digest]
        try:
            data = self.store.get(self._key(digest, MANIFEST))
        except MissingKey:
            raise RegistryError(f"`{self.name}` has no version {names.short(digest)}", "see `list`") from None
        history = self.history()
        logged = None if digest in history.collected else history.registered.get(digest)
        if logged and logged.deed.manifest and logged.deed.manifest != sha256_bytes(data):
            what = f"{MANIFEST} of version {names.short(digest)} is not the one that was registered"
            raise RegistryError(what, "restore it from a copy")
        version = entries.parse_manifest(data, digest)
        if logged:
            self._known[digest] = version
        return version

    def read_file(self, digest: str, name: str) -> bytes:
        """Return one small file of a version, its bytes verified.

        Raises:
            RegistryError: The version has no such file, or its bytes are not those registered.
        """
        version = self.read(digest)
        if name not in version.files:
            raise RegistryError(f"version {names.short(digest)} holds no {name}", "see `show` for its files")
        return b"".join(self._verified(version, name))

    def put(self, candidate: Candidate) -> Version:
        """Write a version: every file, then what is stored is read back, then its manifest.

        A version that exists is verified and left as it is. Files that an earlier, killed attempt
        left are taken over as they lie: the manifest describes what is stored. Those that make the
        version's identity must be exact.

        Raises:
            RegistryError: A file may not be held by a version, or what is stored is not what it should be.
        """
        digest = candidate.digest
        if self.has(digest):
            self.check(digest)
            return self.read(digest)
        for name, content in candidate.files.items():
            entries.check_file_name(name)
            _check_source(name, content)
        size = sum(len(c) if isinstance(c, bytes) else c.stat().st_size for c in candidate.files.values())
        everything = sorted(candidate.files)
        with _moving(size, "storing the version") as on_bytes:
            in_parallel(
                self.store,
                lambda name: self.store.put(self._key(digest, name), candidate.files[name], on_bytes),
                everything,
            )
        self._refuse_strangers(digest, set(candidate.files))
        stored = in_parallel(self.store, lambda name: self._stored(digest, name), everything)
        version = Version(candidate.identity, dict(zip(everything, stored, strict=True)))
        entries.check_identity(version, f"version {names.short(digest)}")
        self.store.put(self._key(digest, MANIFEST), version.manifest())
        return self.read(digest)

    def check(self, digest: str) -> Version:
        """Read every byte of a version and hold it against the manifest.

        Raises:
            RegistryError: Naming the first file that is missing, altered or does not belong there.
        """
        self._known.pop(digest, None)
        version = self.read(digest)
        self._refuse_strangers(digest, set(version.files))
        in_parallel(self.store, lambda name: sum(map(len, self._verified(version, name))), version.files)
        return version

    def pull(self, digest: str, target: Path) -> Version:
        """Copy a version into the folder ``target``, which appears whole or not at all.

        Raises:
            RegistryError: ``target`` holds something already, or the version is damaged.
        """
        version = self.read(digest)
        if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
            raise RegistryError(f"{target} exists and is not an empty folder", "name a new folder to pull into")
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.absolute().parent / f".{target.name}.{os.getpid()}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        try:
            with _moving(sum(entry.size for entry in version.files.values()), "pulling the version") as on_bytes:
                in_parallel(self.store, lambda name: self._fetch(version, name, draft / name, on_bytes), version.files)
            (draft / MANIFEST).write_bytes(version.manifest())
            draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return version

    def _key(self, digest: str, name: str) -> str:
        return f"{self.name}/versions/{digest}/{name}"

    def _fetch(self, version: Version, name: str, target: Path, on_bytes: OnBytes) -> None:
        """Copy a file of a version to ``target``, and hold what came against the manifest."""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.store.fetch(self._key(version.digest, name), target, on_bytes)
        except MissingKey:
            raise _damaged(version, name, "is missing") from None
        with target.open("rb") as file:
            for _ in _held_against(version, name, iter(lambda: file.read(BLOCK), b"")):
                pass

    def _verified(self, version: Version, name: str) -> Iterator[bytes]:
        """Yield a file's bytes; the last block is followed by an error if they were not those registered."""
        try:
            yield from _held_against(version, name, self.store.stream(self._key(version.digest, name)))
        except MissingKey:
            raise _damaged(version, name, "is missing") from None

    def _stored(self, digest: str, name: str) -> StoredFile:
        """Hash what the store holds under a file's name, reading it back."""
        hashed, size = hashlib.sha256(), 0
        for block in self.store.stream(self._key(digest, name)):
            hashed.update(block)
            size += len(block)
        return StoredFile(hashed.hexdigest(), size)

    def _refuse_strangers(self, digest: str, expected: set[str]) -> None:
        """Refuse a version's folder that holds what nobody registered."""
        prefix = f"{self.name}/versions/{digest}"
        for key in sorted(self.store.ages(prefix)):
            name = key.removeprefix(prefix + "/")
            if name != MANIFEST and name not in expected:
                what = f"version {names.short(digest)} holds {name}, which is not among its files"
                raise RegistryError(what, f"find who put it there, and remove it from {self.store.label}/{prefix}")

    def _near_words(self, word: str, history: History, digests: list[str]) -> str:
        known = [*history.aliases(), *(f"v{serial}" for serial in history.serials().values())]
        near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
        if near:
            return f"did you mean `{self.name}@{near[0]}`?"
        shown = [*known, *map(names.short, digests)]
        return f"there is {', '.join(shown[:12])}{' and more: see `list`' if len(shown) > 12 else ''}"


def names_in(store: Store) -> list[str]:
    """Return the names that have versions or a log in ``store``."""
    return [name for name in store.children("") if names.is_name(name)]


@contextlib.contextmanager
def _moving(size: int, what: str) -> Iterator[OnBytes]:
    """Give what counts the bytes that went over, on a progress bar where ``size`` makes it worth one."""
    if size < _BAR_FROM:
        yield lambda _: None
        return
    with bar(what, total=size, unit="B") as shown:
        yield shown.update


def _held_against(version: Version, name: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass a file's blocks on; the last is followed by an error if they are not what the manifest says."""
    expected, hashed, size, head = version.files[name], hashlib.sha256(), 0, b""
    for block in blocks:
        hashed.update(block)
        size += len(block)
        head = head or block[:_HEAD]
        yield block
    if size != expected.size:
        raise _damaged(version, name, f"has {size} bytes, its manifest says {expected.size}")
    if hashed.hexdigest() != expected.sha256:
        raise _damaged(version, name, "does not have the SHA-256 of its manifest")
    entries.check_content(name, head, size)


def _damaged(version: Version, name: str, how: str) -> RegistryError:
    advice = "do not use this version; restore it from a copy"
    return RegistryError(f"{name} of version {names.short(version.digest)} {how}", advice)


def _check_source(name: str, content: bytes | Path) -> None:
    """Look into a file before it is stored.

    Raises:
        RegistryError: It is missing, a symbolic link, a pickle, or not what its name says.
    """
    if isinstance(content, bytes):
        entries.check_content(name, content[:_HEAD], len(content))
        return
    if content.is_symlink() or not content.is_file():
        raise RegistryError(f"{content} is not a regular file", "put the file itself there, not a link")
    with contextlib.closing(content.open("rb")) as source:
        entries.check_content(name, source.read(_HEAD), content.stat().st_size)
