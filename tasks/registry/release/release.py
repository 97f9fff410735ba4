"""Register a candidate, promote it by the gate or by a person's override, roll back, deprecate.

Each of these appends one log entry, decided from the log as it is. So each can be repeated after a crash at any
point, and the result is as if it was done once.
"""

from __future__ import annotations

import dataclasses
import functools
import json

from tasks.core.errors import GateRefused, RegistryError
from tasks.core.files import pretty_json, sha256_bytes
from tasks.registry.gate.gate import PASSED, Decision, GateConfig, decide
from tasks.registry.log import evidence as evidences
from tasks.registry.log.entries import COLLECT, DEPRECATE, PROMOTE, REGISTER, RESTORE, ROLLBACK, Event
from tasks.registry.log.evidence import Evidence
from tasks.registry.log.history import History
from tasks.registry.log.names import check_alias, short
from tasks.registry.versions.manifest import DECISION, EVIDENCE, Candidate, Version
from tasks.registry.versions.registry import LostFiles, Registry

_TRIES = 5  # registrations of a version that is collected each time


@dataclasses.dataclass(frozen=True)
class Release:
    """The result of a registration.

    Attributes:
        digest: The version.
        serial: Its serial number, from 1 for each name; None where it is not registered.
        decision: The gate's.
        is_promoted: Whether the alias was moved to it, now or when it was first registered.
        is_new: Whether the log did not contain it before.
    """

    digest: str
    serial: int | None
    decision: Decision
    is_promoted: bool
    is_new: bool

    @property
    def is_registered(self) -> bool:
        """Tell whether the registry holds it."""
        return self.serial is not None

    @property
    def is_settled(self) -> bool:
        """Tell whether registering it again would change nothing."""
        return self.is_registered and (self.is_promoted or self.decision.outcome != PASSED)


def weigh(registry: Registry, history: History, evidence: Evidence, alias: str, gate: GateConfig) -> Decision:
    """Apply the gate to ``evidence`` against the version that ``alias`` points to in ``history``.

    If that is the version itself, it is compared with the one before it.
    """
    earlier = [d for d in history.targets_of(alias) if d != evidence.version and d not in history.collected]
    champion = evidence_of(registry, earlier[-1]) if earlier else None
    return decide(evidence, champion, history.attempt(evidence), gate)


def evidence_of(registry: Registry, digest: str) -> Evidence:
    """Read the evidence that a version carries, its bytes verified."""
    version = registry.read(digest)
    names = [name for name in version.files if name.startswith(EVIDENCE)]
    files = {name.removeprefix(EVIDENCE): registry.read_file(digest, name) for name in names}
    return evidences.parse(files, f"version {short(digest)}", version.identity.base, digest)


def register(registry: Registry, candidate: Candidate, evidence: Evidence, alias: str, gate: GateConfig) -> Release:
    """Record a candidate permanently, and promote it to ``alias`` if the gate allows it.

    Registering the same bytes again changes nothing and returns what was decided then. What a killed attempt left
    undone is completed.
    """
    check_alias(alias)
    digest, is_new = candidate.digest, False
    for _ in range(_TRIES):
        version = _put(registry, candidate, evidence, alias, gate)
        if version is None:
            continue
        is_new |= _log_registration(registry, version, registry.log.last.folder(digest), evidence, alias, gate)
        if registry.holds(digest):  # else a collection came in between
            break
    else:
        what = f"version {short(digest)} was collected {_TRIES} times while it was registered"
        raise RegistryError(what, "run again when `gc` is through")

    decision, is_promoted = _promote_if_decided(registry, digest, evidence, alias, gate)
    serial = registry.history().serials()[digest]
    return Release(digest, serial, decision, is_promoted, is_new)


def _put(registry: Registry, candidate: Candidate, evidence: Evidence, alias: str, gate: GateConfig) -> Version | None:
    """Store a candidate, with the decision about it.

    A registered version that lost files, and that this candidate cannot restore, is collected: then None is returned,
    and the candidate can be stored in a new folder.

    Raises:
        RegistryError: An alias leads to the version that lost files.
    """
    digest, history = candidate.digest, registry.history()
    if history.is_kept(digest) and (logged := history.registered[digest].event.decision):
        record = dict(logged)
    else:
        record = weigh(registry, history, evidence, alias, gate).as_json()
    files = {**candidate.files, DECISION: pretty_json(record).encode()}
    try:
        return registry.put(dataclasses.replace(candidate, files=files))
    except LostFiles as error:
        if registry.log.append(functools.partial(collection, digest)) is None:
            advice = "restore it from a copy; or promote others until no rollback leads to it, and register it again"
            raise RegistryError(error.what, advice) from None
        return None


def judge(registry: Registry, evidence: Evidence, alias: str, gate: GateConfig) -> Release:
    """Return what the registry says of a candidate, or else what the gate would say; nothing is written.

    So it is no look at the prompts that costs the gate any of its alpha.
    """
    history, digest = registry.history(), evidence.version
    if not registry.holds(digest):
        decision = weigh(registry, history, evidence, alias, gate)
        return Release(digest, None, decision, is_promoted=False, is_new=False)

    decision = _logged_decision(registry, history, evidence, alias, gate)
    return Release(digest, history.serials()[digest], decision, history.was_promoted(digest, alias), is_new=False)


def promote(
    registry: Registry, digest: str, alias: str, override: str | None = None, reason: str | None = None
) -> bool:
    """Move ``alias`` to a version; return False if it points to it already.

    The gate is asked again, with the version's own evidence and conditions, against the version that the alias points
    to now: a decision against an earlier champion allows nothing.

    Args:
        registry: Where the version is.
        digest: The version.
        alias: The alias to move.
        override: A person's reason to promote against the gate, for the log.
        reason: A person's reason for the log; it allows nothing.

    Raises:
        GateRefused: The gate does not allow it, and nobody overrides.
        RegistryError: The version is not registered, no longer kept, or deprecated.
    """
    check_alias(alias)
    evidence = evidence_of(registry, digest)
    gate = Decision.from_json(json.loads(registry.read_file(digest, DECISION))).gate

    def event(history: History) -> Event | None:
        target = history.target(alias)
        if target == digest:
            return None
        _check_kept(history, digest)
        if deprecation := history.deprecated.get(digest):
            what = f"version {short(digest)} is deprecated: {deprecation.event.reason}"
            raise RegistryError(what, "take that back first: `deprecate --undo`")

        decision = weigh(registry, history, evidence, alias, gate)
        if decision.outcome != PASSED and override is None:
            what = f"the gate says `{decision.outcome}` to {short(digest)}: {'; '.join(decision.reasons)}"
            raise GateRefused(what, 'give a reason with --override "why" to promote it all the same')
        authority = "gate" if decision.outcome == PASSED else "override"
        record = decision.as_json()
        return Event(PROMOTE, digest, alias, target, authority, reason=override or reason, decision=record)

    return registry.log.append(event) is not None


def rollback(registry: Registry, alias: str, reason: str | None = None, left: str | None = None) -> tuple[str, str]:
    """Move ``alias`` back to the version that it pointed to before; return (from, to).

    Args:
        registry: Where.
        alias: The alias to move.
        reason: A person's reason, for the log.
        left: The version that ``alias`` shall no longer point to. With it, a repeated call changes nothing and returns
            the same.

    Raises:
        RegistryError: It never pointed to another version, or another process moved it meanwhile.
    """
    check_alias(alias)
    before = registry.history().targets_of(alias)
    if left and (not before or before[-1] != left):
        return left, _rolled_back_to(registry, alias, left)

    def event(history: History) -> Event:
        targets = history.targets_of(alias)
        if targets != before:
            raise RegistryError(f"`{registry.name}@{alias}` was moved by another process meanwhile", "look, then retry")
        if len(targets) < 2:
            raise RegistryError(f"`{registry.name}@{alias}` never pointed to another version", "see `log`")
        if targets[-2] in history.collected:
            what = f"{short(targets[-2])}, which `{registry.name}@{alias}` pointed to before, is no longer kept"
            raise RegistryError(what, "promote another version")
        return Event(ROLLBACK, targets[-2], alias, targets[-1], reason=reason)

    entry = registry.log.append(event)
    assert entry is not None  # `event` never returns None
    return before[-1], entry.event.version


def deprecate(registry: Registry, digest: str, reason: str) -> bool:
    """Mark a version as not to be used or promoted any more; return False if it is marked already.

    Raises:
        RegistryError: An alias points to it, or it is not a registered version.
    """

    def event(history: History) -> Event | None:
        if digest in history.deprecated:
            return None
        _check_kept(history, digest)
        if aliases := [alias for alias, target in history.aliases().items() if target == digest]:
            what = f"`{registry.name}@{aliases[0]}` points to {short(digest)}"
            raise RegistryError(what, "roll back, or promote another version, and deprecate it then")
        return Event(DEPRECATE, digest, reason=reason)

    return registry.log.append(event) is not None


def restore(registry: Registry, digest: str, reason: str | None = None) -> bool:
    """Take a deprecation back; return False if there is none."""

    def event(history: History) -> Event | None:
        return Event(RESTORE, digest, reason=reason) if digest in history.deprecated else None

    return registry.log.append(event) is not None


def _rolled_back_to(registry: Registry, alias: str, left: str) -> str:
    """Return the version to which the newest move of ``alias`` led, if it was a rollback from ``left``."""
    moves = [entry.event for entry in registry.log.entries() if entry.event.alias == alias]
    if moves and moves[-1].action == ROLLBACK and moves[-1].previous == left:
        return moves[-1].version
    target = short(moves[-1].version) if moves else "nothing"
    what = f"`{registry.name}@{alias}` points to {target}, not to {short(left)}"
    raise RegistryError(what, "see `log` for what moved it")


def _check_kept(history: History, digest: str) -> None:
    """Refuse a version that is not registered or no longer kept."""
    if digest in history.collected:
        what = f"version {short(digest)} is no longer kept"
        raise RegistryError(what, "register it again: `dvc repro -s -f register`")
    if digest not in history.registered:
        raise RegistryError(f"the registration of {short(digest)} was cut short", "finish it: `dvc repro register`")


def collection(digest: str, history: History) -> Event | None:
    """Return the event that gives up a version's files; None where an alias or a rollback leads to it."""
    is_needed = any(digest in history.reachable(alias) for alias in history.targets)
    return None if is_needed or not history.is_kept(digest) else Event(COLLECT, digest)


def _log_registration(
    registry: Registry, version: Version, folder: str, evidence: Evidence, alias: str, gate: GateConfig
) -> bool:
    """Write the entry that registers a version, with the decision at that moment; return False if it exists.

    A version that was collected meanwhile is not in the folder that it would be registered in now: False as well.
    """

    def event(history: History) -> Event | None:
        if history.is_kept(version.digest) or history.folder(version.digest) != folder:
            return None
        return Event(
            REGISTER,
            version.digest,
            prompt_set=evidence.prompt_set,
            prompt_sample=evidence.prompt_sample,
            manifest=sha256_bytes(version.manifest()),
            folder=None if folder == version.digest else folder,
            decision=weigh(registry, history, evidence, alias, gate).as_json(),
        )

    return registry.log.append(event) is not None


def _logged_decision(
    registry: Registry, history: History, evidence: Evidence, alias: str, gate: GateConfig
) -> Decision:
    """Return the decision in the log entry that registered a version."""
    logged = history.registered[evidence.version].event.decision
    return Decision.from_json(logged) if logged else weigh(registry, history, evidence, alias, gate)


def _promote_if_decided(
    registry: Registry, digest: str, evidence: Evidence, alias: str, gate: GateConfig
) -> tuple[Decision, bool]:
    """Promote once if the logged decision says so; decide again if the champion changed since.

    Returns:
        The last decision, and whether the version is or was promoted.
    """
    decision = _logged_decision(registry, registry.history(), evidence, alias, gate)

    def event(history: History) -> Event | None:
        nonlocal decision
        target = history.target(alias)
        is_settled = target == digest or history.was_promoted(digest, alias) or digest in history.deprecated
        is_settled |= not history.is_kept(digest)  # it was collected just now
        if decision.outcome != PASSED or is_settled:
            return None
        if target != decision.champion:
            decision = weigh(registry, history, evidence, alias, gate)
        if decision.outcome != PASSED:
            return None
        return Event(PROMOTE, digest, alias, target, "gate", decision=decision.as_json())

    registry.log.append(event)
    return decision, registry.history().was_promoted(digest, alias)
