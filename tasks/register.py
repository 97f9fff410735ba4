"""Record the adapter with its evidence in the registry, and promote it if the gate says so.

reads:  models/adapter, results/train, results/winrate, results/report, data/base, data/reference,
        data/adapters/init, data/pairs, and the registry
writes: a version and log entries in the registry; results/register/ (registration, decision, metrics, and the
        page decision.html); runs/decision.html, the page with what the judge took
params: `register` in params.yaml
run as: python -m tasks.register

DVC runs it at every `dvc repro`, for only the registry knows what it holds. A version that it holds already is
neither written nor read again. An experiment (`dvc exp run`) is judged and not registered, unless
`register.in_experiments` is set.

A refusal by the gate is a result, not a failure: the version is recorded, the alias stays, and the stage ends well,
unless `register.require_promotion` is set.
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
from tasks.page.decision.decision_page import PAGE, decision_page
from tasks.registry.gate.gate import GateConfig
from tasks.registry.log import names
from tasks.registry.release import candidate, lineage, release
from tasks.registry.release.candidate import Sources
from tasks.registry.release.release import Release
from tasks.registry.stores.main_checkout import experiment
from tasks.registry.stores.open_store import open_store
from tasks.registry.versions.registry import Registry
from tasks.telemetry.judge_usage import read_usage
from tasks.telemetry.log import get_logger
from tasks.telemetry.receipts import note

log = get_logger("tasks.register")  # run as a module its __name__ would be __main__


def _is_place(root: str) -> bool:
    return bool(root) and ("://" not in root or root.startswith(SCHEME))


@dataclasses.dataclass(frozen=True)
class RegisterConfig(Section, path="register"):
    """Where a version is registered, and what it needs to be promoted (params section `register`).

    Attributes:
        name: The series of versions that it belongs to.
        root: The registry: a folder, relative to the main checkout, or `s3://bucket/prefix`.
        encryption: How the server of a bucket encrypts; its default when empty.
        kms_key: The key for `aws:kms`; the account's default when empty.
        alias: The alias that is moved to a promoted version.
        require_promotion: Whether a refusal by the gate ends the stage with exit status 3.
        in_experiments: Whether experiments of DVC register, too.
        gate: The conditions.
    """

    name: Annotated[str, Rule(names.is_name, "use a-z, 0-9 and single . _ - between them")]
    root: Annotated[str, Rule(_is_place, "write a folder or s3://bucket/prefix")] = "models/registry"
    encryption: Literal["", "AES256", "aws:kms", "aws:kms:dsse"] = ""
    kms_key: str = ""
    alias: Annotated[str, Rule(names.is_alias, "use a word, as champion or candidate")] = names.DEFAULT_ALIAS
    require_promotion: bool = False
    in_experiments: bool = False
    gate: GateConfig = dataclasses.field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        is_used = not self.kms_key or self.encryption.startswith("aws:kms")
        self.require(is_used, "kms_key", "set `register.encryption: aws:kms`, or leave the key empty")


def run(sources: Sources, out: Path, config: RegisterConfig, params: str = "") -> Release:
    """Register the adapter of ``sources``, apply the gate, and write ``out``; in an experiment only ask the gate.

    Args:
        sources: The folders of the earlier stages, and what the lineage is read from.
        out: The folder to write; its bytes depend only on the inputs and the registry's log.
        config: The stage's params.
        params: Text of params.yaml, kept with the version.

    Raises:
        ArtifactError: An input is missing, unfinished or altered.
        RegistryError: The registry is damaged, or a version may not hold one of the files.
        StorageError: The registry's disk is full, or the bucket denies access.
        NetworkError: The registry's server does not answer; run again.
        GateRefused: Promotion is required and was refused; the version and ``out`` are written.
    """
    identity, evidence = candidate.identify(sources)
    registry = Registry(open_store(config.root, config.encryption, config.kms_key), config.name)

    result = release.judge(registry, evidence, config.alias, config.gate)
    if not result.is_settled and (config.in_experiments or not experiment()):
        gathered = candidate.gather(sources, identity, params, lineage.trace(sources, params))
        result = release.register(registry, gathered, evidence, config.alias, config.gate)
    page = decision_page(config.name, registry.history(), result, config.alias, sources.winrate, params)
    _write(out, config, result, dataclasses.asdict(identity), page.render())
    write_text(sources.receipts.parent / PAGE, page.render(read_usage(sources.receipts)))
    _report(config, result)

    if config.require_promotion and result.is_registered and not result.is_promoted:
        reasons = "; ".join(result.decision.reasons)
        raise GateRefused(
            f"version {names.short(result.digest)} is recorded, not promoted: {reasons}", "see the report"
        )
    return result


def _write(out: Path, config: RegisterConfig, result: Release, identity: dict[str, Any], page: str) -> None:
    """Write the stage's output folder."""
    numbers = result.decision.numbers
    metrics = {
        "win_rate": numbers["win_rate"],
        "lower_bound": numbers["lower_bound"],
        "attempt": result.decision.attempt,
        "serial": result.serial,
        "promoted": int(result.is_promoted),
    }
    registration = {
        "name": config.name,
        "version": result.digest,
        "registered": result.is_registered,
        "serial": result.serial,
        "alias": config.alias,
        "outcome": result.decision.outcome,
        "promoted": result.is_promoted,
        "identity": identity,
    }

    with atomic_folder(out, {"stage": "register", "inputs": identity}) as draft:
        write_text(draft / "registration.json", pretty_json(registration))
        write_text(draft / "decision.json", pretty_json(result.decision.as_json()))
        write_text(draft / "metrics.json", pretty_json(metrics))
        write_text(draft / PAGE, page)


def _report(config: RegisterConfig, result: Release) -> None:
    """Log in one line what was recorded and what the gate decided, and note it in the receipt."""
    note(version=result.digest, is_new=result.is_new, outcome=result.decision.outcome, promoted=result.is_promoted)
    version = f"{config.name} v{result.serial} ({names.short(result.digest)})"
    known = "recorded" if result.is_new else "was recorded before"
    outcome, reasons = result.decision.outcome, "; ".join(result.decision.reasons)
    if not result.is_registered:
        version = f"{config.name} {names.short(result.digest)}"
        advice = "set `register.in_experiments`, or apply the experiment and run `dvc repro`, to register it"
        log.info("%s not registered by an experiment (the gate says %s: %s): %s", version, outcome, reasons, advice)
    elif result.is_promoted:
        log.info("%s %s and promoted to `%s`: %s", version, known, config.alias, result.decision.reasons[0])
    else:
        log.info("%s %s, not promoted (%s): %s", version, known, outcome, reasons)


def main() -> None:
    """Bind the standard paths and params.yaml."""
    with door("register", RegisterConfig) as config:
        run(Sources(), paths.REGISTER, config, paths.PARAMS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
