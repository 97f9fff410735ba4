"""Record the adapter with its evidence in the registry, and promote it if the gate says so.

reads:  models/adapter, results/train, results/winrate, results/report, data/base, data/reference,
        data/adapters/init, data/pairs, and the registry
writes: a version and log entries in the registry; results/register/ (registration, decision, metrics)
params: `register` in params.yaml
run as: python -m tasks.register

A refusal by the gate is a result, not a failure: the version is recorded, the alias stays, and the
stage ends well, unless `register.require_promotion` is set.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from tasks.core import paths
from tasks.core.errors import GateRefused
from tasks.core.files import atomic_folder, pretty_json, write_text
from tasks.core.section import Rule, Section
from tasks.launch.stage import door
from tasks.object_store.bucket import SCHEME
from tasks.registry.gate.gate import GateConfig
from tasks.registry.log import names
from tasks.registry.release import candidate, lineage, release
from tasks.registry.release.candidate import Sources
from tasks.registry.release.lineage import Origin
from tasks.registry.release.release import Release
from tasks.registry.stores.open_store import open_store
from tasks.registry.versions.registry import Registry
from tasks.telemetry.log import get_logger
from tasks.telemetry.receipts import note

log = get_logger("tasks.register")  # run as a module its __name__ would be __main__


def _is_place(root: str) -> bool:
    return bool(root) and ("://" not in root or root.startswith(SCHEME))


@dataclasses.dataclass(frozen=True)
class RegisterConfig(Section, path="register"):
    """Where and under which conditions a version is released (params section `register`).

    Attributes:
        name: The line of versions that it belongs to.
        root: The registry: a folder, or `s3://bucket/prefix`.
        encryption: How the server of a bucket shall encrypt; its own way when empty.
        kms_key: The key for `aws:kms`; the account's own when empty.
        alias: What the promoted version is called.
        require_promotion: Whether a refusal by the gate ends the stage with exit status 3.
        gate: The conditions.
    """

    name: Annotated[str, Rule(names.is_name, "use a-z, 0-9 and single . _ - between them")]
    root: Annotated[str, Rule(_is_place, "write a folder or s3://bucket/prefix")] = "models/registry"
    encryption: Literal["", "AES256", "aws:kms", "aws:kms:dsse"] = ""
    kms_key: str = ""
    alias: Annotated[str, Rule(names.is_alias, "use a word, as champion or candidate")] = names.CHAMPION
    require_promotion: bool = False
    gate: GateConfig = dataclasses.field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        is_used = not self.kms_key or self.encryption.startswith("aws:kms")
        self.require(is_used, "kms_key", "set `register.encryption: aws:kms`, or leave the key empty")


def run(sources: Sources, out: Path, config: RegisterConfig, origin: Origin, params: str = "") -> Release:
    """Register the adapter that lies in ``sources``, apply the gate, and write ``out``.

    Args:
        sources: The folders of the earlier stages.
        out: The folder to write; its bytes depend on the inputs and the registry's log alone.
        config: The stage's params.
        origin: Where the lineage is read.
        params: Text of params.yaml, kept with the version.

    Raises:
        ArtifactError: An input is missing, unfinished or altered.
        RegistryError: The registry is damaged, or a file may not be held by a version.
        StorageError: The registry's disk or bucket refuses.
        NetworkError: The registry's server does not answer; run again.
        GateRefused: Promotion is required and was refused; version and ``out`` are written.
    """
    identity, evidence = candidate.identify(sources)
    gathered = candidate.gather(sources, identity, params, lineage.trace(origin, params))
    registry = Registry(open_store(config.root, config.encryption, config.kms_key), config.name)
    done = release.register(registry, gathered, evidence, config.alias, config.gate)
    _write(out, config, done, dataclasses.asdict(identity))
    _tell(config, done)
    if config.require_promotion and not done.is_promoted:
        reasons = "; ".join(done.decision.reasons)
        raise GateRefused(f"version {names.short(done.digest)} is recorded, not promoted: {reasons}", "see the report")
    return done


def _write(out: Path, config: RegisterConfig, done: Release, identity: dict[str, Any]) -> None:
    """Write the stage's output folder."""
    numbers = done.decision.numbers
    metrics = {
        "win_rate": numbers["win_rate"],
        "lower_bound": numbers["lower_bound"],
        "attempt": done.decision.attempt,
        "serial": done.serial,
        "promoted": int(done.is_promoted),
    }
    registration = {
        "name": config.name,
        "version": done.digest,
        "serial": done.serial,
        "alias": config.alias,
        "outcome": done.decision.outcome,
        "promoted": done.is_promoted,
        "identity": identity,
    }
    with atomic_folder(out, {"stage": "register", "inputs": identity}) as draft:
        write_text(draft / "registration.json", pretty_json(registration))
        write_text(draft / "decision.json", pretty_json(done.decision.as_json()))
        write_text(draft / "metrics.json", pretty_json(metrics))


def _tell(config: RegisterConfig, done: Release) -> None:
    """Say in one line what was recorded and what the gate decided, and keep it in the receipt."""
    note(version=done.digest, is_new=done.is_new, outcome=done.decision.outcome, promoted=done.is_promoted)
    version = f"{config.name} v{done.serial} ({names.short(done.digest)})"
    known = "recorded" if done.is_new else "was recorded before"
    if done.is_promoted:
        log.info("%s %s and promoted to `%s`: %s", version, known, config.alias, done.decision.reasons[0])
    else:
        reasons = "; ".join(done.decision.reasons)
        log.info("%s %s, not promoted (%s): %s", version, known, done.decision.outcome, reasons)


def main() -> None:
    """Bind the standard paths and params.yaml."""
    with door("register", RegisterConfig) as config:
        sources = Sources()
        origin = Origin(sources.base, sources.pairs, paths.INIT_ADAPTER, sources.train_results)
        run(sources, paths.REGISTER, config, origin, paths.PARAMS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
