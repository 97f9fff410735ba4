"""The registry's log: one numbered entry a deed, created if absent; order, history and lock in one.

<name>/log/00000007.json        the entries
<name>/snapshots/00000050.json  what follows from the first fifty, so that nobody has to read them again

An entry is decided upon the log as it stood, and is written under the next number. When another
process took that number first, the log is read again and the entry decided anew: so every entry is
true of the log before it, without a lock that a dead process could hold.
"""

from __future__ import annotations

import contextlib
import getpass
import platform
import re
import secrets
from collections.abc import Callable, Iterable, Iterator

from tasks.core.errors import NetworkError, RegistryError, StorageError
from tasks.core.files import sha256_bytes
from tasks.registry.log.entries import Deed, LogEntry
from tasks.registry.log.history import History
from tasks.registry.stores.store import MissingKey, Store, in_parallel
from tasks.telemetry.provenance import now

EVERY = 50  # entries between two snapshots
_FILE = re.compile(r"([0-9]{8})\.json")
_TRIES = 1000


class Log:
    """The log of one name in a store. Entries never change, so what was once read is remembered.

    Attributes:
        last: What followed from the log when it was last read.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._folder, self._snapshots = f"{name}/log", f"{name}/snapshots"
        self._where = f"{store.label}/{self._folder}"
        self.last = History()

    def read(self) -> History:
        """Read the log up to its newest entry.

        Raises:
            RegistryError: An entry is missing in the middle, is malformed, or does not follow.
        """
        history = self._from_snapshot()
        fresh = in_parallel(self._store, self._entry, self._listed(history.count))
        history = history.followed_by(fresh, self._where)
        self.last = history.followed_by(self._unlisted(history.count), self._where)
        return self.last

    def entries(self) -> list[LogEntry]:
        """Read every entry from the first on, and follow them all.

        Raises:
            RegistryError: As :meth:`read`.
        """
        return [entry for entry, _ in self._replayed()]

    def check(self) -> History:
        """Replay every entry, and hold every snapshot against what follows from the entries before it.

        Raises:
            RegistryError: As :meth:`read`, or a snapshot says otherwise than the log.
        """
        history, rest = History(), self._replayed()
        for number in self._numbers(self._snapshots):
            history = history.followed_by(rest[history.count : number], self._where)
            key = _key(self._snapshots, number)
            found = History.from_snapshot(self._store.get(key))
            if history.count != number or (found is not None and found != history):
                raise RegistryError(f"{self._store.label}/{key} says otherwise than the log", "remove that file")
        self.last = history.followed_by(rest[history.count :], self._where)
        return self.last

    def append(self, decide: Callable[[History], Deed | None]) -> LogEntry | None:
        """Add the deed that ``decide`` makes of the log as it stands; None adds nothing.

        ``decide`` is called again whenever another process was first, and may raise.
        """
        for _ in range(_TRIES):
            history = self.read()
            deed = decide(history)
            if deed is None:
                return None
            entry = LogEntry(history.count + 1, deed, now(), _who(), history.tip, secrets.token_hex(8))
            data = entry.as_bytes()
            if self._store.put(_key(self._folder, entry.number), data):
                self.last = history.followed_by([(entry, sha256_bytes(data))], self._where)
                self._keep_snapshot()
                return entry
        raise StorageError(f"{_TRIES} others were first to write into {self._folder}", "run it again when it is calm")

    def _keep_snapshot(self) -> None:
        """Keep what follows from the log when it is time; the deed is done, whatever comes of it."""
        if self.last.count % EVERY == 0:
            with contextlib.suppress(StorageError, NetworkError, OSError):
                self._store.put(_key(self._snapshots, self.last.count), self.last.snapshot())

    def _from_snapshot(self) -> History:
        """Return the newest state that is known: the one read before, or a snapshot's."""
        newest = max(self._numbers(self._snapshots), default=0)
        if newest <= self.last.count:
            return self.last
        found = History.from_snapshot(self._store.get(_key(self._snapshots, newest)))
        if found is None:
            return self.last
        if found.count != newest or self._entry(newest)[1] != found.tip:
            what = f"{self._store.label}/{_key(self._snapshots, newest)} is not a snapshot of this log"
            raise RegistryError(what, "remove that file: it is only a shortcut")
        return found

    def _numbers(self, folder: str, after: int = 0) -> list[int]:
        """Return the numbers of the files in ``folder`` above ``after``, in order."""
        children = self._store.children(folder, f"{after:08d}.json" if after else "")
        return [int(match[1]) for name in children if (match := _FILE.fullmatch(name))]

    def _listed(self, known: int) -> range:
        """Return the numbers of the entries behind ``known`` that a listing shows."""
        newest = max(self._numbers(self._folder, max(known - 1, 0)), default=max(known - 1, 0))
        if newest < known:
            raise RegistryError(f"{self._where} lost its entries from {newest + 1} on", "restore them from a copy")
        return range(known + 1, newest + 1)

    def _unlisted(self, known: int) -> Iterator[tuple[LogEntry, str]]:
        """Yield the entries behind ``known``: a listing may lag behind what is being written."""
        with contextlib.suppress(MissingKey):
            while True:
                known += 1
                yield self._parsed(known, self._store.get(_key(self._folder, known)))

    def _replayed(self) -> list[tuple[LogEntry, str]]:
        found = list(in_parallel(self._store, self._entry, self._listed(0)))
        found += self._unlisted(len(found))
        History().followed_by(found, self._where)
        return found

    def _entry(self, number: int) -> tuple[LogEntry, str]:
        """Read one entry that must be there; return it with its SHA-256."""
        try:
            return self._parsed(number, self._store.get(_key(self._folder, number)))
        except MissingKey:
            what = f"{self._where}/{number:08d}.json is missing though later entries exist"
            raise RegistryError(what, "restore it from a copy: without it no alias can be trusted") from None

    def _parsed(self, number: int, data: bytes) -> tuple[LogEntry, str]:
        try:
            return LogEntry.from_bytes(data), sha256_bytes(data)
        except ValueError:
            what = f"{self._where}/{number:08d}.json is not a log entry"
            raise RegistryError(what, "restore it from a copy") from None


def _key(folder: str, number: int) -> str:
    return f"{folder}/{number:08d}.json"


def _who() -> str:
    """Return user@host; a container may know no user."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{platform.node()}"


def entries_to_json(entries: Iterable[LogEntry]) -> list[dict[str, object]]:
    """Return log entries as plain JSON values, for machine-readable output."""
    return [entry.as_json() for entry in entries]
