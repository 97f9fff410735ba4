"""What follows from the registry's log: which versions there are, and what each alias names.

The state after n entries is a pure function of them, so it can be kept as a snapshot: a reader then needs the newest
snapshot and the few entries behind it. Snapshots are made from the log and never the other way round; `verify`
replays every entry and holds the snapshots against it.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping

from tasks.core.errors import RegistryError
from tasks.core.files import canonical_json
from tasks.registry.log.entries import (
    ACTIONS,
    COLLECT,
    DEPRECATE,
    MOVES,
    PROMOTE,
    REGISTER,
    RESTORE,
    ROLLBACK,
    Deed,
    LogEntry,
)
from tasks.registry.log.evidence import Evidence, are_much_the_same

_SCHEMA = 1
_MARKS = ("registered", "deprecated", "collected")


@dataclasses.dataclass(frozen=True)
class History:
    """The log from entry 1 to entry ``count``, and what follows from it.

    Attributes:
        count: How many entries there are.
        tip: SHA-256 of the newest entry; empty without one.
        registered: The entry that registered each version, the oldest version first.
        deprecated: The entry that deprecated each version that is so now.
        collected: The entry by which each version whose files are no longer kept was given up.
        lines: What each alias named, oldest first; the last is what it names now. A rollback takes
            the newest away, so a second one goes further back.
        promoted: The versions to which each alias was ever moved by a promotion.
    """

    count: int = 0
    tip: str = ""
    registered: Mapping[str, LogEntry] = dataclasses.field(default_factory=dict)
    deprecated: Mapping[str, LogEntry] = dataclasses.field(default_factory=dict)
    collected: Mapping[str, LogEntry] = dataclasses.field(default_factory=dict)
    lines: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    promoted: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)

    def followed_by(self, entries: Iterable[tuple[LogEntry, str]], where: str) -> History:
        """Return the history with further entries, each given with its SHA-256.

        Raises:
            RegistryError: An entry contradicts those before it; the message says ``where`` the log lies.
        """
        marks = {name: dict(getattr(self, name)) for name in _MARKS}
        lines = {alias: list(line) for alias, line in self.lines.items()}
        promoted = {alias: set(versions) for alias, versions in self.promoted.items()}
        count, tip = self.count, self.tip
        for entry, sha in entries:
            _check_follows(entry, (count, tip), marks, lines, where)
            _apply(entry, marks, lines, promoted)
            count, tip = entry.number, sha
        return History(
            count,
            tip,
            **marks,
            lines={alias: tuple(line) for alias, line in sorted(lines.items())},
            promoted={alias: frozenset(versions) for alias, versions in sorted(promoted.items())},
        )

    def serials(self) -> dict[str, int]:
        """Return which version each was to be registered, from 1."""
        return {digest: serial for serial, digest in enumerate(self.registered, start=1)}

    def kept(self) -> list[str]:
        """Return the versions whose files are kept, in the order of their registration."""
        return [digest for digest in self.registered if digest not in self.collected]

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
        return digest in self.promoted.get(alias, ())

    def attempt(self, evidence: Evidence) -> int:
        """Return which look at its prompts a version's is: 1 + those before it that met much the same ones.

        Data grow, and few prompts come new with each batch: a look at nearly the same prompts is another look.
        """
        before = itertools.takewhile(lambda item: item[0] != evidence.version, self.registered.items())
        return 1 + sum(_met(entry.deed, evidence) for _, entry in before)

    def snapshot(self) -> bytes:
        """Return the state as bytes, the same for every process that read the same log."""
        index = {digest: place for place, digest in enumerate(self.registered)}
        record = {
            "schema": _SCHEMA,
            "count": self.count,
            "tip": self.tip,
            **{name: [entry.as_json() for entry in getattr(self, name).values()] for name in _MARKS},
            "lines": {alias: [index[digest] for digest in line] for alias, line in self.lines.items()},
            "promoted": {alias: sorted(index[d] for d in versions) for alias, versions in self.promoted.items()},
        }
        return (canonical_json(record) + "\n").encode()

    @classmethod
    def from_snapshot(cls, data: bytes) -> History | None:
        """Read what :meth:`snapshot` wrote; None for what another checkout wrote in another form."""
        try:
            record = json.loads(data)
            if record["schema"] != _SCHEMA:
                return None
            entries = {name: [LogEntry.from_json(entry) for entry in record[name]] for name in _MARKS}
            marks = {name: {entry.deed.version: entry for entry in found} for name, found in entries.items()}
            order = list(marks["registered"])
            lines = {alias: tuple(order[place] for place in line) for alias, line in record["lines"].items()}
            promoted = {alias: frozenset(order[place] for place in d) for alias, d in record["promoted"].items()}
            return cls(int(record["count"]), str(record["tip"]), **marks, lines=lines, promoted=promoted)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return None


def _met(deed: Deed, evidence: Evidence) -> bool:
    """Tell whether a registration was judged on much the same prompts."""
    if deed.prompt_sample is None:
        return deed.prompt_set == evidence.prompt_set
    return are_much_the_same(deed.prompt_sample, evidence.prompt_sample)


def _apply(
    entry: LogEntry,
    marks: Mapping[str, dict[str, LogEntry]],
    lines: dict[str, list[str]],
    promoted: dict[str, set[str]],
) -> None:
    """Let one deed take its effect."""
    deed, alias = entry.deed, entry.deed.alias or ""
    if deed.action == REGISTER:
        marks["registered"][deed.version] = entry
        marks["collected"].pop(deed.version, None)
    elif deed.action == PROMOTE:
        lines.setdefault(alias, []).append(deed.version)
        promoted.setdefault(alias, set()).add(deed.version)
    elif deed.action == ROLLBACK:
        lines[alias].pop()
    elif deed.action == RESTORE:
        marks["deprecated"].pop(deed.version)
    else:
        marks["deprecated" if deed.action == DEPRECATE else "collected"][deed.version] = entry


def _check_follows(
    entry: LogEntry,
    before: tuple[int, str],
    marks: Mapping[str, Mapping[str, LogEntry]],
    lines: Mapping[str, list[str]],
    where: str,
) -> None:
    """Refuse an entry that the log before it contradicts: it was edited, or put there by hand."""
    deed, name = entry.deed, f"{where}/{entry.number:08d}.json"
    if deed.action not in ACTIONS:
        raise RegistryError(f"{name} records `{deed.action}`, unknown to this checkout", "update the checkout")
    line = lines.get(deed.alias or "", [])
    is_kept = deed.version in marks["registered"] and deed.version not in marks["collected"]
    is_named = any(holders and holders[-1] == deed.version for holders in lines.values())
    is_right = (entry.number, entry.after) == (before[0] + 1, before[1])
    is_right &= is_kept == (deed.action != REGISTER)
    if deed.action in MOVES:
        is_right &= deed.previous == (line[-1] if line else None)
    if deed.action == ROLLBACK:
        is_right &= len(line) > 1 and deed.version == line[-2]
    if deed.action in (DEPRECATE, RESTORE):
        is_right &= (deed.version in marks["deprecated"]) == (deed.action == RESTORE)
    if deed.action in (DEPRECATE, COLLECT):
        is_right &= not is_named
    if not is_right:
        raise RegistryError(f"{name} does not follow from the entries before it", "restore the log from a copy")
