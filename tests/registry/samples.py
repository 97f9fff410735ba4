"""Small candidates with real files, for the registry's tests and the processes that they start."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from safetensors.numpy import save

from tasks.registry.log import evidence as evidences
from tasks.registry.log.evidence import Evidence
from tasks.registry.versions.manifest import ADAPTER_CONFIG, EVIDENCE, WEIGHTS, Candidate, Identity, evidence_digest

BASE = "b" * 64


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def scores_of(wins: int, ties: int = 0, losses: int = 0, missing: int = 0) -> dict[str, float | None]:
    values = [1.0] * wins + [0.5] * ties + [0.0] * losses + [None] * missing
    return {f"p{number:03d}": value for number, value in enumerate(values)}


def evidence_files(scores: dict[str, float | None], **changes) -> dict[str, bytes]:
    known = [score for score in scores.values() if score is not None]
    metrics = {
        "prompts": len(scores),
        "coverage": len(known) / len(scores),
        "win_rate": sum(known) / max(len(known), 1),
        "lower_bound": 0.1,
        "guards": {
            "empty_share": {"value": 0.0, "limit": 0.05, "passed": True},
            "judge_agreement": {"value": 0.9, "limit": 0.5, "passed": True},
        },
        "something_new": {"that": "is ignored"},
    } | changes
    lines = [json.dumps({"prompt_id": prompt, "score": score, "more": 1}) for prompt, score in scores.items()]
    return {
        evidences.METRICS: json.dumps({k: v for k, v in metrics.items() if v is not ...}).encode(),
        evidences.SCORES: ("\n".join(lines) + "\n").encode(),
    }


def evidence(scores: dict[str, float | None], version: str = "c" * 64, base: str = BASE, **changes) -> Evidence:
    return evidences.parse(evidence_files(scores, **changes), "evidence", base, version)


def sample(
    seed: int = 0, scores: dict[str, float | None] | None = None, base: str = BASE, note: str = "", **changes
) -> tuple[Candidate, Evidence]:
    """A candidate whose weights follow from ``seed``; ``note`` changes its lineage alone."""
    files = evidence_files(scores or scores_of(80, losses=20), **changes)
    weights = save({"lora_A": np.full((4, 3), seed, dtype=np.float32)})
    config = b'{"peft_type": "LORA", "r": 4}\n'
    stored = {EVIDENCE + name: data for name, data in files.items()}
    judged = evidence_digest({name: sha(data) for name, data in stored.items()})
    identity = Identity(sha(weights), sha(config), base, "e" * 64, "d" * 64, judged)
    lineage = {
        "git": {"commit": note or None, "dirty": False},
        "base": {"source": "demo", "revision": None, "digest": base},
        "data": {"digest": "d" * 64, "pairs_used": {"train": 90, "test": 10}},
    }
    content = {
        WEIGHTS: weights,
        ADAPTER_CONFIG: config,
        **stored,
        "README.md": b"# A card\n",
        "report.html": b"<html></html>\n",
        "train/metrics.json": b"{}\n",
        "params.yaml": b"train: {}\n",
        "lineage.json": json.dumps(lineage).encode(),
    }
    return Candidate(identity, content), evidences.parse(files, "evidence", base, identity.digest)
