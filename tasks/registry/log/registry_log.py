"""The registry's log: numbered entries, each created only if absent; it is order, history and lock in one.

<name>/log/00000007.json        one entry: an event, and the SHA-256 of the entry before it

A writer decides on an event from the log as it is, and creates the entry of the next number. If another process
created that number first, the writer reads the log again and decides anew. So each entry follows from the log before
it, without a lock that a dead process could hold.

Entries never change, so those read from a remote store are copied on this machine, which saves a request each:

$XDG_CACHE_HOME/dpo-pipeline/registry/<hash of the store's label>/<name>/00000007.json    (~/.cache by default)

The copies are no source of truth: the chain of hashes verifies them, and they can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import getpass
import itertools
import os
import platform
import re
import secrets
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from tasks.core.errors import RegistryError, StorageError
from tasks.core.files import sha256_bytes
from tasks.registry.log.entries import Event, LogEntry
from tasks.registry.log.history import History
from tasks.registry.stores.store import MissingKey, Store, in_parallel
from tasks.telemetry.provenance import now

_FILE = re.compile(r"([0-9]{8})\.json")
_TRIES = 1000


class Log:
    """The log of one name in a store. Entries never change, so each is read from the store once.

    Attributes:
        last: What followed from the log when it was last read.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._folder = f"{name}/log"
        self._where = f"{store.label}/{self._folder}"
        cache = os.environ.get("XDG_CACHE_HOME") or f"{os.environ.get('HOME', '')}/.cache"
        self._copies = Path(cache, "dpo-pipeline/registry", sha256_bytes(store.label.encode())[:16], name)
        self._reading = threading.Lock()  # of `last`: versions are read in several threads, and each reads the log
        self.last = History()

    def read(self) -> History:
        """Read the log up to its newest entry.

        Raises:
            RegistryError: An entry is missing in the middle, is malformed, or does not follow from those before it.
        """
        with self._reading:
            if not self.last.entries:
                self._read_copies()
            return self._read_store()

    def entries(self) -> list[LogEntry]:
        """Return all entries, the oldest first.

        Raises:
            RegistryError: As :meth:`read`.
        """
        return list(self.read().entries)

    def check(self) -> History:
        """Read and verify all entries anew, each from the store.

        Raises:
            RegistryError: As :meth:`read`.
        """
        with self._reading:
            self.last = History()
            return self._read_store()

    def append(self, decide: Callable[[History], Event | None]) -> LogEntry | None:
        """Add the event that ``decide`` returns for the log as it is; None adds nothing.

        ``decide`` is called again if another process wrote first, and may raise.
        """
        for _ in range(_TRIES):
            history = self.read()
            with self._reading:  # `decide` and other threads may read further entries
                number, tip = len(history.entries) + 1, history.tip
            event = decide(history)
            if event is None:
                return None

            entry = LogEntry(number, event, now(), _who(), tip, secrets.token_hex(8))
            data = entry.as_bytes()
            if self._store.put(self._key(number), data):
                with self._reading:
                    if len(self.last.entries) < number:  # else another thread has read it already
                        self._follow([self._copied(number, data)])
                return entry
        what = f"{_TRIES} attempts to write into {self._folder} lost to other writers"
        raise StorageError(what, "run it again when fewer processes write there")

    def _read_copies(self) -> None:
        """Take the entries that were copied, from number 1 on, if the store holds the last of them.

        That one comes from the store and holds the hash of the entry before it, and so on: this verifies all of them.
        """
        copied: list[bytes] = []
        with contextlib.suppress(OSError):
            while self._store.is_remote:
                copied.append((self._copies / _file_name(len(copied) + 1)).read_bytes())
        try:
            if copied and self._store.get(self._key(len(copied))) == copied[-1]:
                self._follow(map(self._parsed, itertools.count(1), copied))
        except RegistryError:  # altered, or of another log: read everything from the store
            self.last = History()

    def _read_store(self) -> History:
        """Read the entries that follow the last one, first those that a listing of the store shows."""
        known = len(self.last.entries)
        names = self._store.children(self._folder, _file_name(known - 1) if known > 1 else "")
        newest = max((int(match[1]) for name in names if (match := _FILE.fullmatch(name))), default=max(known - 1, 0))
        if newest < known:
            raise RegistryError(f"{self._where} lost its entries from {newest + 1} on", "restore them from a copy")

        self._follow(in_parallel(self._store, self._listed_entry, range(known + 1, newest + 1)))
        with contextlib.suppress(MissingKey):  # a listing may lag behind what is being written
            while True:
                self._follow([self._entry(len(self.last.entries) + 1)])
        return self.last

    def _follow(self, entries: Iterable[tuple[LogEntry, str]]) -> None:
        """Take further entries, each with its SHA-256, up to the first that is refused."""
        for entry, sha256 in entries:
            self.last.add(entry, sha256, self._where)

    def _listed_entry(self, number: int) -> tuple[LogEntry, str]:
        """Read one entry that must exist; return it with its SHA-256."""
        try:
            return self._entry(number)
        except MissingKey:
            what = f"{self._where}/{_file_name(number)} is missing though later entries exist"
            raise RegistryError(what, "restore it from a copy: without it no alias can be trusted") from None

    def _entry(self, number: int) -> tuple[LogEntry, str]:
        return self._copied(number, self._store.get(self._key(number)))

    def _copied(self, number: int, data: bytes) -> tuple[LogEntry, str]:
        """Return an entry of the store with its SHA-256, and keep a copy; one torn by a crash is noticed when read."""
        if self._store.is_remote:
            with contextlib.suppress(OSError):
                self._copies.mkdir(parents=True, exist_ok=True)
                (self._copies / _file_name(number)).write_bytes(data)
        return self._parsed(number, data)

    def _parsed(self, number: int, data: bytes) -> tuple[LogEntry, str]:
        try:
            return LogEntry.from_bytes(data), sha256_bytes(data)
        except ValueError:
            what = f"{self._where}/{_file_name(number)} is not a log entry"
            raise RegistryError(what, "restore it from a copy") from None

    def _key(self, number: int) -> str:
        return f"{self._folder}/{_file_name(number)}"


def _file_name(number: int) -> str:
    return f"{number:08d}.json"


def _who() -> str:
    """Return user@host; a container may know no user."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{platform.node()}"
