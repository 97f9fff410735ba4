"""Whole stages on real preference data and a real, if tiny, trained model."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import Checkout

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
MakeCheckout = Callable[[str], Checkout]


def test_stories260k_learns_the_blimp_morphology_pairs(new_checkout: MakeCheckout, shared: Path) -> None:
    checkout = new_checkout("blimp")
    data = shared / "preferences/blimp-minimal-pairs/pairs.jsonl.gz"
    checkout.set_params(
        base={"source": str(shared / "models/stories260K")},
        ingest={
            "sources": [str(data)],
            "where": {"meta.field": "morphology"},
            "limit": 2400,
            "columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected", "slice": "meta.paradigm"},
            "test_share": 0.1,
        },
        train={
            "learning_rate": 2e-3,
            "objective": {"beta": 0.1},
            "epochs": 1,
            "pairs_per_step": 16,
            "lora": {"rank": 8, "alpha": 16, "dropout": 0.0, "target_modules": "all-linear"},
        },
    )
    checkout.dvc("repro", "train")
    metrics = json.loads((checkout.folder / "results/train/metrics.json").read_text())
    assert metrics["before"]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert metrics["train_loss_first"] == pytest.approx(0.6931, abs=1e-4)
    assert metrics["after"]["loss"] <= 0.40
    assert metrics["after"]["accuracy"] >= 0.83
    assert metrics["pairs"]["train"] + metrics["pairs"]["test"] == 2400
    train, test = (
        set(pq.read_table(checkout.folder / f"data/pairs/{split}.parquet")["prompt"].to_pylist())
        for split in ("train", "test")
    )
    assert train
    assert test
    assert not train & test


def test_every_row_of_the_published_hh_file_is_accounted_for(new_checkout: MakeCheckout, shared: Path) -> None:
    checkout = new_checkout("hh")
    folder = shared / "preferences/hh-rlhf-harmless-base-test"
    checkout.set_params(ingest={"sources": [str(folder / "raw/test.jsonl.gz")], "limit": None, "where": {}})
    checkout.dvc("repro", "ingest")
    metrics = json.loads((checkout.folder / "data/pairs/metrics.json").read_text())
    rejects = [json.loads(line) for line in (checkout.folder / "data/pairs/rejects.jsonl").read_text().splitlines()]
    with gzip.open(folder / "odd.jsonl.gz", "rt", encoding="utf-8") as stream:
        odd = {json.loads(line)["id"] for line in stream}
    found = {f"hh-{int(row['source'].rsplit(':', 1)[1]) - 1}" for row in rejects if "duplicate" not in row["reason"]}
    assert metrics["rows_read"] == 2312
    assert sum(metrics["pairs"].values()) + sum(metrics["left_out"].values()) == 2312
    assert sum(metrics["left_out"].values()) == len(rejects)
    assert metrics["left_out"]["rejected"] == sum(metrics["rejected"].values()) == len(odd) == 13
    assert found == odd
