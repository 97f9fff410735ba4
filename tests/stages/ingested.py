"""Runs of the ingest stage for tests: what they leave adds up, and a refused one leaves nothing."""

from __future__ import annotations

import collections
import json
from pathlib import Path
from typing import Any

import pytest

from tasks import ingest as stage
from tasks.core.errors import DataError
from tasks.ingest import IngestConfig
from tasks.pairs.record.pair import Pair
from tasks.pairs.record.parquet import stored_pairs
from tests.pairs.samples import read_lines

OUTPUTS = ["manifest.json", "metrics.json", "rejects.jsonl", "test.parquet", "train.parquet"]


def run(out: Path, config: IngestConfig) -> dict[str, Any]:
    return stage.run(stage.Folders(out), config)


def ingest(out: Path, *sources: Path | str, **config: Any) -> dict[str, Any]:
    metrics = run(out, IngestConfig(tuple(map(str, sources)), **config))
    assert sorted(path.name for path in out.iterdir()) == OUTPUTS
    assert metrics["outcomes"] == sum(metrics["pairs"].values()) + sum(metrics["left_out"].values())
    assert metrics == json.loads((out / "metrics.json").read_text())
    listed = collections.Counter(line["reason"] for line in read_lines(out / "rejects.jsonl"))
    left = metrics["left_out"]
    assert sum(listed.values()) == sum(left.values()) - left["filtered"] - left["over_limit"]
    assert {reason: listed[reason] for reason in metrics["rejected"]} == metrics["rejected"]
    return metrics


def stored(out: Path, *sides: str) -> list[Pair]:
    return [
        pair for side in sides or ("train", "test") for batch in stored_pairs(out / f"{side}.parquet") for pair in batch
    ]


def sides_of(out: Path) -> dict[str, str]:
    return {pair.prompt_id: side for side in ("train", "test") for pair in stored(out, side)}


def refusal(tmp_path: Path, *sources: Path | str, **config: Any) -> str:
    with pytest.raises(DataError) as caught:
        run(tmp_path / "out", IngestConfig(tuple(map(str, sources)), **config))
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))
    return str(caught.value)
