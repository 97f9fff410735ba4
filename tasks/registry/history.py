"""The registry's log: one numbered entry a deed, created if absent; order, history and lock in one.

An entry is decided upon the log as it stood, and is written under the next number. When another
process took that number first, the log is read again and the entry decided anew: so every entry is
true of the log before it, without a lock that a dead process could hold.
"""

from __future__ import annotations

import dataclasses
import getpass
import itertools
import json
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.core.errors import RegistryError, StorageError
from tasks.core.files import pretty_json
from tasks.core.provenance import now
from tasks.registry.names import is_alias, is_digest
from tasks.registry.store import MissingKey, Store

REGISTER, PROMOTE, ROLLBACK = "register", "promote", "rollback"
_ACTIONS = (REGISTER, PROMOTE, ROLLBACK)
_FILE = re.compile(r"([0-9]{8})\.json")
_TRIES = 1000


@dataclasses.dataclass(frozen=True)
class Deed:
    """What an entry says happened.

    Attributes:
        action: `register`, `promote` or `rollback`.
        version: Digest of the version registered, or that the alias names from now on.
        alias: The alias moved; None for a registration.
        previous: What the alias named before; None where it was new.
        authority: By what a promotion was allowed: `gate` or `override`.
        reason: A person's words, for an override or a rollback.
        prompt_set: Of a registration: digest of the prompts it was judged on.
        manifest: Of a registration: SHA-256 of the version's manifest.json.
        decision: The gate's decision at that moment.
    """

    action: str
    version: str
    alias: str | None = None
    previous: str | None = None
    authority: str | None = None
    reason: str | None = None
    prompt_set: str | None = None
    manifest: str | None = None
    decision: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class LogEntry:
    """A deed with its number, the time (UTC, ISO 8601) and who did it (user@host)."""

    number: int
    deed: Deed
    when: str
    by: str


@dataclasses.dataclass(frozen=True)
class History:
    """The whole log, from entry 1 to the newest, and what follows from it.

    Attributes:
        entries: All entries; the n-th has number n.
        registered: The entry that registered each version, oldest first.
        lines: What each alias named, oldest first; the last is what it names now. A rollback takes
            the newest away, so a second one goes further back.
    """

    entries: tuple[LogEntry, ...]
    registered: Mapping[str, LogEntry]
    lines: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, entries: Sequence[LogEntry], where: str) -> History:
        """Follow the log from its first entry; ``where`` it lies is for messages.

        Raises:
            RegistryError: An entry contradicts those before it.
        """
        registered: dict[str, LogEntry] = {}
        lines: dict[str, list[str]] = {}
        for entry in entries:
            _check_follows(entry, registered, lines, where)
            if entry.deed.action == REGISTER:
                registered[entry.deed.version] = entry
            elif entry.deed.action == PROMOTE:
                lines.setdefault(str(entry.deed.alias), []).append(entry.deed.version)
            else:
                lines[str(entry.deed.alias)].pop()
        return cls(tuple(entries), registered, {alias: tuple(line) for alias, line in sorted(lines.items())})

    def serials(self) -> dict[str, int]:
        """Return which version each was to be registered, from 1."""
        return {digest: serial for serial, digest in enumerate(self.registered, start=1)}

    def line(self, alias: str) -> tuple[str, ...]:
        """Return what ``alias`` named, oldest first; empty when it never named anything."""
        return self.lines.get(alias, ())

    def holder(self, alias: str) -> str | None:
        """Return the version that ``alias`` names; None when it names none."""
        line = self.line(alias)
        return line[-1] if line else None

    def aliases(self) -> dict[str, str]:
        """Return every alias and the version that it names."""
        return {alias: line[-1] for alias, line in self.lines.items() if line}

    def was_promoted(self, digest: str, alias: str) -> bool:
        """Tell whether ``alias`` was ever moved to ``digest`` by a promotion."""
        return any((e.deed.action, e.deed.version, e.deed.alias) == (PROMOTE, digest, alias) for e in self.entries)

    def attempt(self, prompt_set: str, digest: str) -> int:
        """Return which look at ``prompt_set`` the version's is: 1 + the others registered before it."""
        before = itertools.takewhile(lambda item: item[0] != digest, self.registered.items())
        return 1 + sum(entry.deed.prompt_set == prompt_set for _, entry in before)


class Log:
    """The log of one name in a store. Entries never change, so those once read are remembered."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._folder = f"{name}/log"
        self._where = f"{store.label}/{self._folder}"
        self._history = History.of((), self._where)

    def read(self) -> History:
        """Read the log up to its newest entry.

        Raises:
            RegistryError: An entry is missing in the middle, is malformed, or does not follow.
        """
        known = self._history.entries
        newest = self._newest(len(known))
        if newest > len(known):
            fresh = [self._entry(number) for number in range(len(known) + 1, newest + 1)]
            self._history = History.of([*known, *fresh], self._where)
        return self._history

    def append(self, decide: Callable[[History], Deed | None]) -> LogEntry | None:
        """Add the deed that ``decide`` makes of the log as it stands; None adds nothing.

        ``decide`` is called again whenever another process was first, and may raise.
        """
        for _ in range(_TRIES):
            history = self.read()
            deed = decide(history)
            if deed is None:
                return None
            entry = LogEntry(len(history.entries) + 1, deed, now(), _who())
            if self._store.put(self._key(entry.number), _to_bytes(entry)):
                return entry
        raise StorageError(f"{_TRIES} others were first to write into {self._folder}", "run it again when it is calm")

    def _key(self, number: int) -> str:
        return f"{self._folder}/{number:08d}.json"

    def _newest(self, known: int) -> int:
        """Return the newest number; a listing may lag behind what is being written, so look beyond."""
        numbers = [int(match.group(1)) for name in self._store.children(self._folder) if (match := _FILE.match(name))]
        newest = max(numbers, default=0)
        if newest < known:
            raise RegistryError(f"{self._where} lost its entries from {newest + 1} on", "restore them from a copy")
        while self._store.exists(self._key(newest + 1)):
            newest += 1
        return newest

    def _entry(self, number: int) -> LogEntry:
        where = f"{self._store.label}/{self._key(number)}"
        try:
            return _from_bytes(self._store.get(self._key(number)), number)
        except MissingKey:
            what = f"{where} is missing though later entries exist"
            raise RegistryError(what, "restore it from a copy: without it no alias can be trusted") from None
        except (ValueError, KeyError, TypeError):
            raise RegistryError(f"{where} is not a log entry", "restore it from a copy") from None


def _check_follows(
    entry: LogEntry, registered: Mapping[str, LogEntry], lines: Mapping[str, Sequence[str]], where: str
) -> None:
    """Refuse an entry that the log before it contradicts: it was edited, or put there by hand."""
    deed, name = entry.deed, f"{where}/{entry.number:08d}.json"
    if deed.action not in _ACTIONS:
        raise RegistryError(f"{name} records `{deed.action}`, unknown to this checkout", "update the checkout")
    line = lines.get(deed.alias or "", ())
    is_right = (deed.version in registered) == (deed.action != REGISTER)
    if deed.action != REGISTER:
        is_right &= deed.previous == (line[-1] if line else None)
    if deed.action == ROLLBACK:
        is_right &= len(line) > 1 and deed.version == line[-2]
    if not is_right:
        raise RegistryError(f"{name} does not follow from the entries before it", "restore the log from a copy")


def _to_bytes(entry: LogEntry) -> bytes:
    deed = {key: value for key, value in dataclasses.asdict(entry.deed).items() if value is not None}
    return pretty_json({"number": entry.number, "when": entry.when, "by": entry.by, **deed}).encode()


def _from_bytes(data: bytes, number: int) -> LogEntry:
    record = json.loads(data)
    known = {field.name for field in dataclasses.fields(Deed)}
    deed = Deed(**{key: value for key, value in record.items() if key in known})
    is_right = record["number"] == number and is_digest(deed.version)
    if not is_right or (deed.action in (PROMOTE, ROLLBACK) and not is_alias(deed.alias)):
        raise ValueError
    return LogEntry(number, deed, str(record["when"]), str(record["by"]))


def _who() -> str:
    """Return user@host; a container may know no user."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{platform.node()}"


def entries_to_json(entries: Sequence[LogEntry]) -> list[dict[str, Any]]:
    """Return log entries as plain JSON values, for machine-readable output."""
    return [json.loads(_to_bytes(entry)) for entry in entries]
