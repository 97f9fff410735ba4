"""One name's versions in a store: written whole, read verified, never changed.

<name>/versions/<digest>/...    files first, manifest.json last: a version exists if and only if
                                its manifest does; `<digest>-1` once it was collected and registered again
<name>/log/00000007.json        one numbered entry for each event; see :mod:`tasks.registry.log.registry_log`
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from tasks.core.errors import RegistryError
from tasks.core.files import MANIFEST, atomic_folder, sha256_bytes
from tasks.registry.log import names
from tasks.registry.log.history import History
from tasks.registry.log.registry_log import Log
from tasks.registry.stores.store import BLOCK, MissingKey, OnBytes, Store, in_parallel
from tasks.registry.versions.manifest import (
    Candidate,
    StoredFile,
    Version,
    check_content,
    check_file_name,
    check_identity,
    parse_manifest,
)
from tasks.telemetry.log import bar

_HEAD = 64  # bytes at the start of a file that show its kind
_BAR_FROM = 1 << 28  # bytes from which a transfer gets a progress bar


class UnknownVersion(RegistryError):
    """No version has this name, alias or digest, in a registry that is sound as far as it was read."""


class LostFiles(RegistryError):
    """Files of a registered version are missing, and its candidate has no files of the same bytes."""


class Registry:
    """The versions of one name, and their log."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = names.check_name(name)
        self.log = Log(store, name)
        self._known: dict[str, Version] = {}  # by folder, manifests of registered versions: they never change

    def history(self) -> History:
        """Read the log."""
        return self.log.read()

    def digests(self) -> list[str]:
        """Return the digests of all versions: those in the log, in its order, then those not logged yet."""
        history = self.history()
        names_there = filter(names.is_digest, self.store.children(f"{self.name}/versions"))
        unknown = [digest for digest in names_there if digest not in history.registered]
        whole = in_parallel(self.store, lambda digest: self.store.exists(self._key(digest, MANIFEST)), unknown)
        return history.kept() + [digest for digest, is_whole in zip(unknown, whole, strict=True) if is_whole]

    def has(self, digest: str) -> bool:
        """Tell whether the version exists, that is: whether its manifest does. One that was collected does not."""
        if not names.is_digest(digest):
            return False
        self.history()
        return self.store.exists(self._key(digest, MANIFEST))

    def holds(self, digest: str) -> bool:
        """Tell whether the version is registered and all its files are there; their bytes are not read.

        Raises:
            RegistryError: Its manifest was altered.
        """
        if not self.history().is_kept(digest):
            return False
        stored = self._stored_files(digest)
        return MANIFEST in stored and set(self.read(digest).files) <= stored

    def find(self, selector: str | None) -> str:
        """Return the digest that an alias, `v<serial>` or a digest's prefix stands for; None is the default alias.

        Raises:
            UnknownVersion: It stands for no version, or for more than one; the message says what there is.
        """
        word = selector or names.DEFAULT_ALIAS
        history = self.history()
        if names.is_alias(word):
            matches = [digest for digest in [history.target(word)] if digest]
        elif serial := names.serial_of(word):
            matches = [digest for digest, number in history.serials().items() if number == serial]
        else:
            matches = [digest for digest in self.digests() if names.is_prefix(word) and digest.startswith(word)]
        if len(matches) == 1:
            return matches[0]

        digests = self.digests()
        if not digests:
            self.refuse_unknown()
        count = f"{len(matches)} versions" if matches else "no version"
        raise UnknownVersion(f"`{self.name}@{word}` names {count}", self._near_words(word, history, digests))

    def refuse_unknown(self) -> NoReturn:
        """Say that this name has no versions, and which names there are.

        Raises:
            UnknownVersion: Always.
        """
        known = names_in(self.store)
        near = difflib.get_close_matches(self.name, known, n=1, cutoff=0.5)
        advice = f"did you mean `{near[0]}`?" if near else f"names there: {', '.join(known) or 'none yet'}"
        raise UnknownVersion(f"`{self.name}` has no versions in {self.store.label}", advice)

    def read(self, digest: str) -> Version:
        """Read a version's manifest and check it against the version's digest and the log.

        Raises:
            RegistryError: There is no such version, or its manifest was altered.
        """
        if known := self._known.get(self.log.last.folder(digest)):
            return known
        history = self.history()
        with self._naming_lost(digest, MANIFEST):
            data = self.store.get(self._key(digest, MANIFEST))

        logged = history.registered[digest] if history.is_kept(digest) else None
        if logged and logged.event.manifest and logged.event.manifest != sha256_bytes(data):
            what = f"{MANIFEST} of version {names.short(digest)} is not the one that was registered"
            raise RegistryError(what, "restore it from a copy")

        version = parse_manifest(data, digest)
        if logged:
            self._known[history.folder(digest)] = version
        return version

    def read_file(self, digest: str, name: str) -> bytes:
        """Return one small file of a version, its bytes verified.

        Raises:
            RegistryError: The version has no such file, or its bytes are not those registered.
        """
        version = self.read(digest)
        if name not in version.files:
            raise RegistryError(f"version {names.short(digest)} holds no {name}", "see `show` for its files")
        with self._naming_lost(version.digest, name):
            data = self.store.get(self._key(digest, name))
        _check_bytes(version, name, [data])
        return data

    def put(self, candidate: Candidate) -> Version:
        """Write a version: its files, which are then read back, and last its manifest.

        A version that exists is verified, and files of it that are missing are written again. Files that an earlier,
        killed attempt left are kept: the manifest describes what is stored. Files that are part of the version's
        identity must be exact.

        Raises:
            LostFiles: The version is registered, files of it are missing, and the candidate's have other bytes.
            RegistryError: A version may not hold such a file, or what is stored is not what it should be.
        """
        digest = candidate.digest
        for name, content in candidate.files.items():
            check_file_name(name)
            _check_source(name, content)
        if self.has(digest):
            self._store_lost(self.read(digest), candidate)
            return self.check(digest)

        if logged := self.log.last.is_kept(digest) and self.log.last.registered[digest].event.manifest:
            version = self._described(candidate, self._stored_files(digest))
            if sha256_bytes(version.manifest()) != logged:
                raise LostFiles(f"{MANIFEST} of version {names.short(digest)} is missing", "restore it from a copy")

        self._store_files(digest, candidate.files)
        self._refuse_unlisted_files(digest, set(candidate.files))
        version = self._described(candidate, candidate.files)
        check_identity(version, f"version {names.short(digest)}")
        self.store.put(self._key(digest, MANIFEST), version.manifest())
        return self.read(digest)

    def _described(self, candidate: Candidate, stored: Container[str]) -> Version:
        """Return the version of those files that are ``stored``, read from the store, and of the candidate's others."""

        def measure(name: str) -> StoredFile:
            key, content = self._key(candidate.digest, name), candidate.files[name]
            return _measured(self.store.stream(key) if name in stored else _blocks(content))[0]

        file_names = sorted(candidate.files)
        files = in_parallel(self.store, measure, file_names)
        return Version(candidate.identity, dict(zip(file_names, files, strict=True)))

    def _store_lost(self, version: Version, candidate: Candidate) -> None:
        """Write those files of a version again that are missing; the candidate's must have the same bytes."""
        lost = set(version.files) - self._stored_files(version.digest)
        for name in lost:
            if _measured(_blocks(candidate.files.get(name, b"")))[0] != version.files[name]:
                what = f"{name} of version {names.short(version.digest)} is missing"
                raise LostFiles(what, "restore it from a copy")
        self._store_files(version.digest, {name: candidate.files[name] for name in lost})

    def _store_files(self, digest: str, files: Mapping[str, bytes | Path]) -> None:
        size = sum(len(content) if isinstance(content, bytes) else content.stat().st_size for content in files.values())
        with _progress(size, "storing the version") as on_bytes:
            in_parallel(self.store, lambda name: self.store.put(self._key(digest, name), files[name], on_bytes), files)

    def check(self, digest: str) -> Version:
        """Read every byte of a version and check it against the manifest.

        Raises:
            RegistryError: A file is missing, altered or not listed; the message names the first.
        """
        self._known.clear()
        version = self.read(digest)
        self._refuse_unlisted_files(digest, set(version.files))

        def verify(name: str) -> None:
            with self._naming_lost(version.digest, name):
                _check_bytes(version, name, self.store.stream(self._key(digest, name)))

        in_parallel(self.store, verify, version.files)
        return version

    def pull(self, digest: str, target: Path) -> Version:
        """Copy a version into the folder ``target``, which appears whole or not at all.

        Raises:
            RegistryError: ``target`` is not empty, or the version is damaged.
        """
        version = self.read(digest)
        if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
            raise RegistryError(f"{target} exists and is not an empty folder", "name a new folder to pull into")
        size = sum(entry.size for entry in version.files.values())
        with (
            atomic_folder(target.absolute(), manifest=version.manifest()) as draft,
            _progress(size, "pulling the version") as on_bytes,
        ):
            in_parallel(self.store, lambda name: self._fetch(version, name, draft / name, on_bytes), version.files)
        return version

    def _folder(self, digest: str) -> str:
        return f"{self.name}/versions/{self.log.last.folder(digest)}"

    def _key(self, digest: str, name: str) -> str:
        return f"{self._folder(digest)}/{name}"

    def _fetch(self, version: Version, name: str, target: Path, on_bytes: OnBytes) -> None:
        """Copy a file of a version to ``target``, and check its bytes against the manifest."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._naming_lost(version.digest, name):
            self.store.fetch(self._key(version.digest, name), target, on_bytes)
        _check_bytes(version, name, _blocks(target))

    def _stored_files(self, digest: str) -> set[str]:
        """Return the names of the files that are there in a version's folder."""
        prefix = self._folder(digest)
        return {key.removeprefix(prefix + "/") for key in self.store.ages(prefix)}

    def _refuse_unlisted_files(self, digest: str, expected: set[str]) -> None:
        """Refuse a version's folder that holds files besides the expected ones."""
        for name in sorted(self._stored_files(digest) - expected - {MANIFEST}):
            what = f"version {names.short(digest)} holds {name}, which is not among its files"
            raise RegistryError(
                what, f"find who put it there, and remove it from {self.store.label}/{self._folder(digest)}"
            )

    @contextlib.contextmanager
    def _naming_lost(self, digest: str, name: str) -> Iterator[None]:
        """Say why a file of a version is missing: the version was collected, perhaps just now, or it is damaged."""
        folder = self.log.last.folder(digest)
        try:
            yield
        except MissingKey:
            history = self.history()
            if digest in history.collected or (name == MANIFEST and digest not in history.registered):
                raise RegistryError(f"`{self.name}` has no version {names.short(digest)}", "see `list`") from None
            if history.folder(digest) != folder:
                what = f"version {names.short(digest)} was registered anew while it was read"
                raise RegistryError(what, "run again") from None
            what = f"{name} of version {names.short(digest)} is missing"
            advice = "do not use this version; register it again (`dvc repro -s -f register`) or restore it from a copy"
            raise RegistryError(what, advice) from None

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
def _progress(size: int, what: str) -> Iterator[OnBytes]:
    """Give a function that counts the bytes transferred, on a progress bar if they are many."""
    if size < _BAR_FROM:
        yield lambda _: None
        return
    with bar(what, total=size, unit="B") as shown:
        yield shown.update


def _blocks(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def _measured(blocks: Iterable[bytes]) -> tuple[StoredFile, bytes]:
    """Return the SHA-256 and size of a file given in blocks, and its first bytes."""
    hashed, size, head = hashlib.sha256(), 0, b""
    for block in blocks:
        hashed.update(block)
        size += len(block)
        head = head or block[:_HEAD]
    return StoredFile(hashed.hexdigest(), size), head


def _check_bytes(version: Version, name: str, blocks: Iterable[bytes]) -> None:
    """Refuse a file of a version, given in blocks, that is not what the manifest says."""
    (stored, head), expected = _measured(blocks), version.files[name]
    if stored.size != expected.size:
        raise _damaged(version, name, f"has {stored.size} bytes, its manifest says {expected.size}")
    if stored.sha256 != expected.sha256:
        raise _damaged(version, name, "does not have the SHA-256 of its manifest")
    check_content(name, head, stored.size)


def _damaged(version: Version, name: str, how: str) -> RegistryError:
    advice = "do not use this version; restore it from a copy"
    return RegistryError(f"{name} of version {names.short(version.digest)} {how}", advice)


def _check_source(name: str, content: bytes | Path) -> None:
    """Check a file before it is stored.

    Raises:
        RegistryError: It is missing, a symbolic link, a pickle, or not what its name says.
    """
    if isinstance(content, bytes):
        check_content(name, content[:_HEAD], len(content))
        return
    if content.is_symlink() or not content.is_file():
        raise RegistryError(f"{content} is not a regular file", "put the file itself there, not a link")
    with content.open("rb") as source:
        check_content(name, source.read(_HEAD), content.stat().st_size)
