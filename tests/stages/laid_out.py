"""What the stages before `register` write, laid out without running them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tasks.core import paths
from tasks.core.files import pretty_json, write_manifest
from tasks.registry.release.candidate import Sources
from tests.registry.samples import evidence_files, sample, scores_of


def folder(path: Path, files: dict[str, bytes], **about: object) -> Path:
    """Write ``files`` and their manifest into the folder ``path``."""
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    write_manifest(path, about)
    return path


def lay(root: Path, wins: int = 80, seed: int = 0) -> Sources:
    """Lay out, at their standard places below ``root``, what the stages before this one write."""
    whole = sample(seed)[0].files
    adapter = {name: bytes(whole[name]) for name in ("adapter_model.safetensors", "adapter_config.json")}
    metrics = pretty_json({"pairs": {"train": 90, "test": 10}}).encode()
    places = {name: root / path for name, path in dataclasses.asdict(Sources()).items()}
    folder(places["adapter"], adapter | {"README.md": b"peft's own card\n"}, stage="train")
    folder(places["train_results"], {"metrics.json": metrics, "steps.csv": b"step\n"}, stage="train")
    folder(places["winrate"], evidence_files(scores_of(wins, losses=100 - wins)) | {"verdicts.jsonl": b""})
    folder(places["report"], {"report.html": b"<html></html>\n", "README.md": b"# Card\n"}, stage="report")
    pinned = {"kind": "demo", "source": "demo", "revision": None, "digest": "b" * 64}
    folder(places["base"], {"config.json": b"{}"}, stage="base", **pinned)
    folder(places["reference"], {"train.logps.npy": b"numbers"}, stage="reference")
    folder(root / paths.INIT_ADAPTER, {}, stage="adapters", source=None)
    folder(places["pairs"], {"train.parquet": b"pairs"}, stage="ingest")
    return Sources(**places)
