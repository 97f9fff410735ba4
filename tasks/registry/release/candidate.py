"""A candidate, gathered from the folders that the stages before `register` wrote."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tasks.core import paths
from tasks.core.errors import ArtifactError
from tasks.core.files import manifest_digest, pretty_json, read_manifest, verify_manifest
from tasks.registry.log import evidence as evidences
from tasks.registry.log.evidence import Evidence
from tasks.registry.versions.manifest import ADAPTER_CONFIG, EVIDENCE, LINEAGE, PARAMS, WEIGHTS, Candidate, Identity
from tasks.registry.versions.manifest import evidence_digest as digest_of_evidence


@dataclasses.dataclass(frozen=True)
class Sources:
    """The folders and files from which a candidate and its lineage are made.

    Attributes:
        adapter: Of train: the adapter in PEFT's format.
        train_results: Of train: its metrics, which count the pairs used.
        winrate: The evidence.
        report: The report and the model card.
        base: The pinned base model.
        reference: The reference's log-probs.
        init_adapter: Of adapters: the adapter that training continued from, or nothing.
        pairs: Of ingest: the preference pairs.
        lock: dvc.lock; without one, as after a run by hand, no hashes of stages are recorded.
        receipts: Each stage's receipt; without that of train no hardware is recorded.
        checkout: A folder in the git checkout that ran the stages.
    """

    adapter: Path = paths.ADAPTER
    train_results: Path = paths.TRAIN_RESULTS
    winrate: Path = paths.WINRATE
    report: Path = paths.REPORT
    base: Path = paths.BASE
    reference: Path = paths.REFERENCE
    init_adapter: Path = paths.INIT_ADAPTER
    pairs: Path = paths.PAIRS
    lock: Path = paths.LOCK
    receipts: Path = paths.RECEIPTS
    checkout: Path = Path()


def identify(sources: Sources) -> tuple[Identity, Evidence]:
    """Return a candidate's identity and its evidence, with the bytes of both verified.

    Raises:
        ArtifactError: A folder is missing, unfinished or altered; the message names its stage.
    """
    adapter = verify_manifest(sources.adapter, "train")["files"]
    winrate = verify_manifest(sources.winrate, "winrate")["files"]
    for name in (WEIGHTS, ADAPTER_CONFIG):
        if name not in adapter:
            raise ArtifactError(f"{sources.adapter} holds no {name}", "run `dvc repro -f train`")
    base = read_manifest(sources.base, "base")
    if "digest" not in base:
        raise ArtifactError(f"{sources.base}/manifest.json is not a base manifest", "run `dvc repro base`")

    identity = Identity(
        weights=adapter[WEIGHTS]["sha256"],
        adapter_config=adapter[ADAPTER_CONFIG]["sha256"],
        base=str(base["digest"]),
        reference=manifest_digest(sources.reference, "reference"),
        data=manifest_digest(sources.pairs, "ingest"),
        evidence=digest_of_evidence({EVIDENCE + name: winrate[name]["sha256"] for name in _evidence_names(winrate)}),
    )
    return identity, evidences.read_folder(sources.winrate, identity.base, identity.digest)


def gather(sources: Sources, identity: Identity, params: str, lineage: dict[str, Any]) -> Candidate:
    """Gather all files of a candidate except the gate's decision.

    Args:
        sources: The folders.
        identity: What :func:`identify` returned.
        params: The text of params.yaml.
        lineage: Content of lineage.json.

    Raises:
        ArtifactError: A file is missing; the message names its stage.
    """
    adapter = read_manifest(sources.adapter, "train")["files"]
    winrate = read_manifest(sources.winrate, "winrate")["files"]
    read_manifest(sources.report, "report")
    read_manifest(sources.train_results, "train")

    files: dict[str, bytes | Path] = {name: sources.adapter / name for name in adapter if name != "README.md"}
    files |= {EVIDENCE + name: sources.winrate / name for name in _evidence_names(winrate)}
    files |= {
        "README.md": sources.report / "README.md",
        "report.html": sources.report / "report.html",
        "train/metrics.json": sources.train_results / "metrics.json",
        PARAMS: params.encode(),
        LINEAGE: pretty_json(lineage).encode(),
    }

    for path in files.values():
        if isinstance(path, Path) and not path.is_file():
            raise ArtifactError(f"{path} is missing", "run `dvc repro` for the stage that writes it")
    return Candidate(identity, files)


def _evidence_names(files: dict[str, Any]) -> list[str]:
    """Return those of the win rate's files that are kept as evidence: scores and metrics, not each verdict."""
    return [name for name in (evidences.METRICS, evidences.SCORES, evidences.DUEL) if name in files]
