"""The deeds: register a candidate, promote by the gate or by a person's word, roll back, deprecate.

Every deed is one log entry, decided upon the log as it stood, so it can be repeated after a crash
at any point and then ends as if done once.
"""

from __future__ import annotations

import dataclasses
import json

from tasks.core.errors import GateRefused, RegistryError
from tasks.core.files import pretty_json, sha256_bytes
from tasks.registry.gate.gate import PROMOTE, Decision, GateConfig, decide
from tasks.registry.log import evidence as evidences
from tasks.registry.log.entries import DEPRECATE, REGISTER, RESTORE, ROLLBACK, Deed
from tasks.registry.log.entries import PROMOTE as PROMOTED
from tasks.registry.log.evidence import Evidence
from tasks.registry.log.history import History
from tasks.registry.log.names import check_alias, short
from tasks.registry.versions.manifest import DECISION, EVIDENCE, Candidate, Version
from tasks.registry.versions.registry import Registry


@dataclasses.dataclass(frozen=True)
class Release:
    """What came of a registration.

    Attributes:
        digest: The version.
        serial: Which version of its name it is, from 1.
        decision: The gate's.
        is_promoted: Whether the alias was moved to it, now or when it was first registered.
        is_new: Whether the log knew it not before.
    """

    digest: str
    serial: int
    decision: Decision
    is_promoted: bool
    is_new: bool


def evidence_of(registry: Registry, digest: str) -> Evidence:
    """Read the evidence that a version carries, verified."""
    version = registry.read(digest)
    names = [name for name in version.files if name.startswith(EVIDENCE)]
    files = {name.removeprefix(EVIDENCE): registry.read_file(digest, name) for name in names}
    return evidences.parse(files, f"version {short(digest)}", version.identity.base, digest)


def weigh(registry: Registry, history: History, evidence: Evidence, alias: str, gate: GateConfig) -> Decision:
    """Apply the gate to ``evidence`` against what ``alias`` names in ``history``.

    A version that the alias names already is weighed against what it named before.
    """
    line = [d for d in history.line(alias) if d != evidence.version and d not in history.collected]
    champion = evidence_of(registry, line[-1]) if line else None
    return decide(evidence, champion, history.attempt(evidence), gate)


def register(registry: Registry, candidate: Candidate, evidence: Evidence, alias: str, gate: GateConfig) -> Release:
    """Record a candidate for ever, and promote it to ``alias`` if the gate says so.

    The same bytes again change nothing: what was decided then is returned. What a killed attempt
    left undone is done.
    """
    check_alias(alias)
    digest = candidate.digest
    if not registry.has(digest):
        decision = weigh(registry, registry.history(), evidence, alias, gate)
        record = pretty_json(decision.as_json()).encode()
        candidate = dataclasses.replace(candidate, files={**candidate.files, DECISION: record})
    version = registry.put(candidate)
    is_new = _log_registration(registry, version, evidence, alias, gate)
    decision, is_promoted = _promote_if_decided(registry, digest, evidence, alias, gate)
    serial = registry.history().serials()[digest]
    return Release(digest, serial, decision, is_promoted, is_new)


def promote(
    registry: Registry, digest: str, alias: str, override: str | None = None, reason: str | None = None
) -> bool:
    """Move ``alias`` to a version; False when it names it already.

    The gate is asked anew, with the version's own evidence and conditions, against what the alias
    names now: a decision against an earlier champion allows nothing. ``override`` is a person's
    reason to promote all the same; the log keeps it. ``reason`` is kept, too, and allows nothing.

    Raises:
        GateRefused: The gate does not allow it, and nobody overrides.
    """
    check_alias(alias)
    evidence = evidence_of(registry, digest)
    gate = Decision.from_json(json.loads(registry.read_file(digest, DECISION))).gate

    def deed(history: History) -> Deed | None:
        holder = history.holder(alias)
        if holder == digest:
            return None
        _check_may_be_named(history, digest)
        decision = weigh(registry, history, evidence, alias, gate)
        if decision.outcome != PROMOTE and override is None:
            what = f"the gate says `{decision.outcome}` to {short(digest)}: {'; '.join(decision.reasons)}"
            raise GateRefused(what, 'give a reason with --override "why" to promote it all the same')
        allowed_by = "gate" if decision.outcome == PROMOTE else "override"
        record = decision.as_json()
        return Deed(PROMOTED, digest, alias, holder, allowed_by, reason=override or reason, decision=record)

    return registry.log.append(deed) is not None


def rollback(registry: Registry, alias: str, reason: str | None = None, left: str | None = None) -> tuple[str, str]:
    """Move ``alias`` back to the version that it named before; return (from, to).

    Args:
        registry: Where.
        alias: What is moved.
        reason: A person's words, for the log.
        left: The version that ``alias`` shall no longer name. With it, doing the same again changes nothing: what
            was rolled back already is told once more.

    Raises:
        RegistryError: It never named another version, or another process moved it meanwhile.
    """
    check_alias(alias)
    seen = registry.history().line(alias)
    if left and (not seen or seen[-1] != left):
        return left, _rolled_back_to(registry, alias, left)

    def deed(history: History) -> Deed:
        line = history.line(alias)
        if line != seen:
            raise RegistryError(f"`{registry.name}@{alias}` was moved by another process meanwhile", "look, then retry")
        if len(line) < 2:
            raise RegistryError(f"`{registry.name}@{alias}` never named another version", "see `log`")
        if line[-2] in history.collected:
            told = f"{short(line[-2])}, which `{registry.name}@{alias}` named before, is no longer kept"
            raise RegistryError(told, "promote another version")
        return Deed(ROLLBACK, line[-2], alias, line[-1], reason=reason)

    done = registry.log.append(deed)
    assert done is not None  # `deed` never returns None
    return seen[-1], done.deed.version


def deprecate(registry: Registry, digest: str, reason: str) -> bool:
    """Mark a version as one not to be used or promoted any more; False when it is marked already.

    Raises:
        RegistryError: An alias names it, or it is no registered version.
    """

    def deed(history: History) -> Deed | None:
        if digest in history.deprecated:
            return None
        _check_kept(history, digest)
        if holders := [alias for alias, holder in history.aliases().items() if holder == digest]:
            told = f"`{registry.name}@{holders[0]}` names {short(digest)}"
            raise RegistryError(told, "roll back, or promote another version, and deprecate it then")
        return Deed(DEPRECATE, digest, reason=reason)

    return registry.log.append(deed) is not None


def restore(registry: Registry, digest: str, reason: str | None = None) -> bool:
    """Take a deprecation back; False when there is none."""

    def deed(history: History) -> Deed | None:
        return Deed(RESTORE, digest, reason=reason) if digest in history.deprecated else None

    return registry.log.append(deed) is not None


def _rolled_back_to(registry: Registry, alias: str, left: str) -> str:
    """Return where the newest move of ``alias`` led, if it was a rollback from ``left``."""
    moves = [entry.deed for entry in registry.log.entries() if entry.deed.alias == alias]
    if moves and moves[-1].action == ROLLBACK and moves[-1].previous == left:
        return moves[-1].version
    holder = moves[-1].version if moves else None
    told = f"`{registry.name}@{alias}` names {short(holder) if holder else 'nothing'}, not {short(left)}"
    raise RegistryError(told, "see `log` for what moved it")


def _check_kept(history: History, digest: str) -> None:
    if digest in history.collected:
        raise RegistryError(f"version {short(digest)} is no longer kept", "register it again: `dvc repro -f register`")
    if digest not in history.registered:
        raise RegistryError(f"the registration of {short(digest)} was cut short", "finish it: `dvc repro register`")


def _check_may_be_named(history: History, digest: str) -> None:
    """Refuse to let an alias name a version that is not registered, not kept or deprecated."""
    _check_kept(history, digest)
    if entry := history.deprecated.get(digest):
        told = f"version {short(digest)} is deprecated: {entry.deed.reason}"
        raise RegistryError(told, "take that back first: `deprecate --undo`")


def _log_registration(registry: Registry, version: Version, evidence: Evidence, alias: str, gate: GateConfig) -> bool:
    """Write the entry that registers a version, with the decision at that moment; False if there."""

    def deed(history: History) -> Deed | None:
        if version.digest in history.registered and version.digest not in history.collected:
            return None
        decision = weigh(registry, history, evidence, alias, gate).as_json()
        pin = sha256_bytes(version.manifest())
        return Deed(
            REGISTER,
            version.digest,
            prompt_set=evidence.prompt_set,
            prompt_sample=evidence.prompt_sample,
            manifest=pin,
            decision=decision,
        )

    return registry.log.append(deed) is not None


def _promote_if_decided(
    registry: Registry, digest: str, evidence: Evidence, alias: str, gate: GateConfig
) -> tuple[Decision, bool]:
    """Carry out a decision to promote, once; weigh anew when the champion changed since it was made."""
    recorded = registry.history().registered[digest].deed.decision
    decided = (
        [Decision.from_json(recorded)] if recorded else [weigh(registry, registry.history(), evidence, alias, gate)]
    )

    def deed(history: History) -> Deed | None:
        holder = history.holder(alias)
        is_settled = holder == digest or history.was_promoted(digest, alias) or digest in history.deprecated
        if decided[-1].outcome != PROMOTE or is_settled:
            return None
        if holder != decided[-1].champion:
            decided.append(weigh(registry, history, evidence, alias, gate))
            if decided[-1].outcome != PROMOTE:
                return None
        return Deed(PROMOTED, digest, alias, holder, "gate", decision=decided[-1].as_json())

    registry.log.append(deed)
    return decided[-1], registry.history().was_promoted(digest, alias)
