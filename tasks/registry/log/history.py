"""What follows from the registry's log: which versions there are, and where each alias points.

The state after n entries depends on these entries alone.
"""

from __future__ import annotations

import dataclasses

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


@dataclasses.dataclass
class History:
    """The log up to some entry, and what follows from it.

    Attributes:
        entries: The entries, the oldest first.
        tip: SHA-256 of the newest entry; empty without one.
        registered: The entry that registered each version, the oldest version first.
        deprecated: The entry that deprecated each version that is deprecated now.
        collected: The entry that collected each version whose files are no longer kept.
        targets: The versions that each alias pointed to, oldest first; the last is the present one. A rollback
            removes the last, so a second rollback goes further back.
        promoted: The versions to which each alias was ever moved by a promotion.
    """

    entries: list[LogEntry] = dataclasses.field(default_factory=list)
    tip: str = ""
    registered: dict[str, LogEntry] = dataclasses.field(default_factory=dict)
    deprecated: dict[str, LogEntry] = dataclasses.field(default_factory=dict)
    collected: dict[str, LogEntry] = dataclasses.field(default_factory=dict)
    targets: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    promoted: dict[str, set[str]] = dataclasses.field(default_factory=dict)

    def add(self, entry: LogEntry, sha256: str, where: str) -> None:
        """Take the next entry, given with its SHA-256.

        Raises:
            RegistryError: It contradicts those before it; the message names the log, which is at ``where``.
        """
        event, alias = entry.event, entry.event.alias or ""
        name = f"{where}/{entry.number:08d}.json"
        if event.action not in ACTIONS:
            raise RegistryError(f"{name} records `{event.action}`, unknown to this checkout", "update the checkout")
        if not self._can_be_next(entry):
            raise RegistryError(f"{name} does not follow from the entries before it", "restore the log from a copy")

        self.entries.append(entry)
        self.tip = sha256
        if event.action == REGISTER:
            self.registered[event.version] = entry
            self.collected.pop(event.version, None)
        elif event.action == PROMOTE:
            self.targets.setdefault(alias, []).append(event.version)
            self.promoted.setdefault(alias, set()).add(event.version)
        elif event.action == ROLLBACK:
            self.targets[alias].pop()
        elif event.action == DEPRECATE:
            self.deprecated[event.version] = entry
        elif event.action == RESTORE:
            self.deprecated.pop(event.version)
        else:
            self.collected[event.version] = entry

    def _can_be_next(self, entry: LogEntry) -> bool:
        """Tell whether the log so far allows this entry next; if not, it was edited or written by hand."""
        event, targets = entry.event, self.targets_of(entry.event.alias or "")

        follows = (entry.number, entry.after) == (len(self.entries) + 1, self.tip)
        follows &= self.is_kept(event.version) == (event.action != REGISTER)
        if event.action in MOVES:
            follows &= event.previous == (targets[-1] if targets else None)
        if event.action == ROLLBACK:
            follows &= len(targets) > 1 and event.version == targets[-2]
        if event.action in (DEPRECATE, RESTORE):
            follows &= (event.version in self.deprecated) == (event.action == RESTORE)
        if event.action in (DEPRECATE, COLLECT):
            follows &= event.version not in self.aliases().values()
        return follows

    def serials(self) -> dict[str, int]:
        """Return the serial number of each version, from 1 in the order of registration."""
        return {digest: serial for serial, digest in enumerate(self.registered, start=1)}

    def kept(self) -> list[str]:
        """Return the versions whose files are kept, in the order of registration."""
        return [digest for digest in self.registered if digest not in self.collected]

    def is_kept(self, digest: str) -> bool:
        """Tell whether a version is registered and its files are kept."""
        return digest in self.registered and digest not in self.collected

    def folder(self, digest: str) -> str:
        """Return the folder, below `versions/`, where a version is, or where it would be registered now.

        Each registration after a collection has a new one: so nobody who still removes the former files meets it.
        """
        if self.is_kept(digest):
            return self.registered[digest].event.folder or digest
        times = sum(entry.event.action == COLLECT and entry.event.version == digest for entry in self.entries)
        return f"{digest}-{times}" if times else digest

    def targets_of(self, alias: str) -> tuple[str, ...]:
        """Return the versions that ``alias`` pointed to, oldest first; empty if it never pointed to any."""
        return tuple(self.targets.get(alias, ()))

    def reachable(self, alias: str) -> set[str]:
        """Return the version that ``alias`` points to, and the one that a rollback would lead to."""
        return {digest for digest in self.targets_of(alias)[-2:] if digest not in self.collected}

    def target(self, alias: str) -> str | None:
        """Return the version that ``alias`` points to; None if it points to none."""
        return self.aliases().get(alias)

    def aliases(self) -> dict[str, str]:
        """Return each alias, in alphabetical order, and the version that it points to."""
        return {alias: versions[-1] for alias, versions in sorted(self.targets.items()) if versions}

    def was_promoted(self, digest: str, alias: str) -> bool:
        """Tell whether ``alias`` was ever moved to ``digest`` by a promotion."""
        return digest in self.promoted.get(alias, ())

    def attempt(self, evidence: Evidence) -> int:
        """Return how many versions, this one included, were judged on much the same prompts up to this one.

        The gate lowers its alpha with each such look. A part of the same prompts counts as the same, and so do the same
        with some more, as data grow with each batch.
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
