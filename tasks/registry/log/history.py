"""What follows from the registry's log: which versions there are, and where each alias points.

The state after n entries is a pure function of these entries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from tasks.core.errors import RegistryError
from tasks.registry.log.entries import (
    ACTIONS,
    COLLECT,
    DEPRECATE,
    MOVES,
    PROMOTE,
    REGISTER,
    RESTORE,
    ROLLBACK,
    LogEntry,
)
from tasks.registry.log.evidence import Evidence, are_much_the_same

_MARKS = ("registered", "deprecated", "collected")


@dataclasses.dataclass(frozen=True)
class History:
    """The log from entry 1 to entry ``count``, and what follows from it.

    Attributes:
        count: The number of entries.
        tip: SHA-256 of the newest entry; empty without one.
        registered: The entry that registered each version, the oldest version first.
        deprecated: The entry that deprecated each version that is deprecated now.
        collected: The entry that collected each version whose files are no longer kept.
        targets: The versions that each alias pointed to, oldest first; the last is the present one. A rollback
            removes the last, so a second rollback goes further back.
        promoted: The versions to which each alias was ever moved by a promotion.
    """

    count: int = 0
    tip: str = ""
    registered: Mapping[str, LogEntry] = dataclasses.field(default_factory=dict)
    deprecated: Mapping[str, LogEntry] = dataclasses.field(default_factory=dict)
    collected: Mapping[str, LogEntry] = dataclasses.field(default_factory=dict)
    targets: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    promoted: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)

    def followed_by(self, entries: Iterable[tuple[LogEntry, str]], where: str) -> History:
        """Return the history with further entries, each given with its SHA-256.

        Raises:
            RegistryError: An entry contradicts those before it; the message names the log, which is at ``where``.
        """
        marks = {name: dict(getattr(self, name)) for name in _MARKS}
        targets = {alias: list(versions) for alias, versions in self.targets.items()}
        promoted = {alias: set(versions) for alias, versions in self.promoted.items()}

        count, tip = self.count, self.tip
        for entry, sha256 in entries:
            _check_follows(entry, (count, tip), marks, targets, where)
            _apply(entry, marks, targets, promoted)
            count, tip = entry.number, sha256

        return History(
            count,
            tip,
            **marks,
            targets={alias: tuple(versions) for alias, versions in sorted(targets.items())},
            promoted={alias: frozenset(versions) for alias, versions in sorted(promoted.items())},
        )

    def serials(self) -> dict[str, int]:
        """Return the serial number of each version, from 1 in the order of registration."""
        return {digest: serial for serial, digest in enumerate(self.registered, start=1)}

    def kept(self) -> list[str]:
        """Return the versions whose files are kept, in the order of registration."""
        return [digest for digest in self.registered if digest not in self.collected]

    def targets_of(self, alias: str) -> tuple[str, ...]:
        """Return the versions that ``alias`` pointed to, oldest first; empty if it never pointed to any."""
        return self.targets.get(alias, ())

    def target(self, alias: str) -> str | None:
        """Return the version that ``alias`` points to; None if it points to none."""
        versions = self.targets_of(alias)
        return versions[-1] if versions else None

    def aliases(self) -> dict[str, str]:
        """Return each alias and the version that it points to."""
        return {alias: versions[-1] for alias, versions in self.targets.items() if versions}

    def was_promoted(self, digest: str, alias: str) -> bool:
        """Tell whether ``alias`` was ever moved to ``digest`` by a promotion."""
        return digest in self.promoted.get(alias, ())

    def attempt(self, evidence: Evidence) -> int:
        """Return how many versions, this one included, were judged on much the same prompts up to this one.

        The gate lowers its alpha with each such look. Data grow by a few prompts with each batch, so nearly the same
        prompts count as the same.
        """
        sample, looks = evidence.prompt_sample, 1
        for version, entry in self.registered.items():
            earlier = entry.event
            if version == evidence.version:
                break
            if earlier.prompt_sample is None:
                looks += earlier.prompt_set == evidence.prompt_set
            else:
                looks += are_much_the_same(earlier.prompt_sample, sample)
        return looks


def _apply(
    entry: LogEntry,
    marks: Mapping[str, dict[str, LogEntry]],
    targets: dict[str, list[str]],
    promoted: dict[str, set[str]],
) -> None:
    """Change the state as one entry says."""
    event, alias = entry.event, entry.event.alias or ""
    if event.action == REGISTER:
        marks["registered"][event.version] = entry
        marks["collected"].pop(event.version, None)
    elif event.action == PROMOTE:
        targets.setdefault(alias, []).append(event.version)
        promoted.setdefault(alias, set()).add(event.version)
    elif event.action == ROLLBACK:
        targets[alias].pop()
    elif event.action == RESTORE:
        marks["deprecated"].pop(event.version)
    else:
        marks["deprecated" if event.action == DEPRECATE else "collected"][event.version] = entry


def _check_follows(
    entry: LogEntry,
    before: tuple[int, str],
    marks: Mapping[str, Mapping[str, LogEntry]],
    targets: Mapping[str, list[str]],
    where: str,
) -> None:
    """Refuse an entry that the log before it contradicts: it was edited, or written by hand."""
    event, name = entry.event, f"{where}/{entry.number:08d}.json"
    if event.action not in ACTIONS:
        raise RegistryError(f"{name} records `{event.action}`, unknown to this checkout", "update the checkout")

    line = targets.get(event.alias or "", [])
    is_kept = event.version in marks["registered"] and event.version not in marks["collected"]
    is_pointed_to = any(versions and versions[-1] == event.version for versions in targets.values())

    follows = (entry.number, entry.after) == (before[0] + 1, before[1])
    follows &= is_kept == (event.action != REGISTER)
    if event.action in MOVES:
        follows &= event.previous == (line[-1] if line else None)
    if event.action == ROLLBACK:
        follows &= len(line) > 1 and event.version == line[-2]
    if event.action in (DEPRECATE, RESTORE):
        follows &= (event.version in marks["deprecated"]) == (event.action == RESTORE)
    if event.action in (DEPRECATE, COLLECT):
        follows &= not is_pointed_to

    if not follows:
        raise RegistryError(f"{name} does not follow from the entries before it", "restore the log from a copy")
