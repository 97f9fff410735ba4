"""Rows that were scored before are not scored again, and nothing that was scored is lost."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.core.errors import ArtifactError, ConfigError, Preempted
from tasks.dpo.dataset import blocks
from tasks.dpo.model import sharding
from tasks.dpo.reference.reference_pass import ReferencePass, reference_logps
from tasks.dpo.reference.row_identity import ReferenceIdentity, row_keys
from tasks.dpo.reference.row_recall import RowRecall
from tasks.pairs.tokens.token_cache import TokenPairs
from tasks.rowstore.row_store import RowStore
from tests.conftest import ROOT
from tests.dpo import tiny

PAIRS = tiny.pairs(30)
IDENTITY = ReferenceIdentity("b" * 64, None, "float32")
SMALL = tiny.budget(64)


def recall(folder: Path, identity: ReferenceIdentity = IDENTITY) -> RowRecall:
    return RowRecall(RowStore.open(folder, "reference"), identity)


def scored(
    folder: Path, pairs: TokenPairs = PAIRS, model: Any = None, runtime: Any = SMALL
) -> tuple[np.ndarray, ReferencePass]:
    """Score with the rows kept in ``folder``."""
    scoring = ReferencePass(lambda: model or tiny.base(), runtime, recall(folder))
    return np.concatenate(list(scoring.blocks(pairs))), scoring


def never() -> Any:
    raise AssertionError("the model was loaded")


@pytest.fixture(scope="module")
def fresh() -> np.ndarray:
    return reference_logps(tiny.base(), PAIRS, SMALL).logps


def test_with_every_row_known_the_model_is_not_even_loaded(tmp_path: Path, fresh: np.ndarray):
    first, scoring = scored(tmp_path)
    assert (scoring.scored, scoring.recalled) == (30, 0)
    assert np.array_equal(first, fresh)
    second = ReferencePass(never, tiny.budget(4096), recall(tmp_path))
    assert np.array_equal(np.concatenate(list(second.blocks(PAIRS))), first)
    assert (second.scored, second.recalled) == (0, 30)


def test_only_new_rows_meet_the_model_and_the_others_keep_their_bits(tmp_path: Path, fresh: np.ndarray):
    before, _ = scored(tmp_path, blocks.part(PAIRS, 0, 22))
    model, seen = tiny.base(), []
    after, scoring = scored(tmp_path, model=model)
    assert (scoring.scored, scoring.recalled) == (8, 22)
    assert np.array_equal(after[: len(before)], before)
    assert np.abs(after - fresh).max() < 1e-5
    model.model.register_forward_hook(lambda *_: seen.append(1))
    scored(tmp_path, model=model)
    assert seen == []


def test_rows_that_moved_are_known_wherever_they_stand(tmp_path: Path, fresh: np.ndarray):
    scored(tmp_path)
    order = np.random.default_rng(1).permutation(30)
    names = [f"{i:016x}" for i in range(30)]
    moved = TokenPairs.of_rows([PAIRS.row(int(i)) for i in order], names, names)
    found = np.concatenate(list(ReferencePass(never, SMALL, recall(tmp_path)).blocks(moved)))
    ends = np.cumsum(PAIRS.lengths[:, 1:].sum(axis=1))
    own = [fresh[ends[i] - PAIRS.lengths[i, 1:].sum() : ends[i]] for i in order]
    assert np.array_equal(found, np.concatenate(own))


def test_another_identity_knows_nothing(tmp_path: Path):
    scored(tmp_path)
    other = ReferencePass(tiny.base, SMALL, recall(tmp_path, ReferenceIdentity("c" * 64, None, "float32")))
    assert len(list(other.blocks(PAIRS))) == 1
    assert (other.scored, other.recalled) == (30, 0)


def test_blocks_bound_what_is_held_and_change_no_value(
    tmp_path: Path, fresh: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(blocks, "BLOCK_TOKENS", 60)
    scoring = ReferencePass(tiny.base, SMALL, recall(tmp_path))
    parts = list(scoring.blocks(PAIRS))
    assert len(parts) > 5
    assert max(map(len, parts)) <= 60
    assert np.abs(np.concatenate(parts) - fresh).max() < 1e-5
    monkeypatch.undo()
    assert np.array_equal(
        np.concatenate(list(ReferencePass(never, SMALL, recall(tmp_path)).blocks(PAIRS))), np.concatenate(parts)
    )


def test_a_block_has_an_end_in_tokens_and_in_rows_and_a_longer_row_is_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(blocks, "BLOCK_TOKENS", 3)
    assert list(blocks.cuts(np.array([3, 9, 1, 1, 1]))) == [(0, 1), (1, 2), (2, 5)]
    assert list(blocks.cuts(np.zeros(0, np.int64))) == []
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 2)
    assert list(blocks.cuts(np.array([3, 9, 1, 1, 1]))) == [(0, 1), (1, 2), (2, 4), (4, 5)]


@pytest.mark.parametrize("wrong", ["another length", "no number"])
def test_a_stored_row_that_cannot_be_right_is_scored_again(tmp_path: Path, fresh: np.ndarray, wrong: str):
    lengths = PAIRS.lengths[:, 1:].sum(axis=1).astype(np.int64)
    row, keys = 4, row_keys(PAIRS, IDENTITY.digest)
    values = np.full(lengths[row] + (wrong == "another length"), np.nan if wrong == "no number" else -1.0, np.float32)
    RowStore.open(tmp_path, "reference").append(keys[[row]], values, np.array([len(values)]))
    found, scoring = scored(tmp_path)
    assert (scoring.scored, scoring.recalled) == (30, 0)
    assert np.array_equal(found, fresh)


def test_what_is_no_number_is_never_stored(tmp_path: Path):
    model = tiny.base()
    model.lm_head.weight.data[5] = float("nan")
    with pytest.raises(ArtifactError, match="reference log-probabilities are NaN or inf"):
        scored(tmp_path, model=model)
    found = RowStore.open(tmp_path, "reference").get(row_keys(PAIRS, IDENTITY.digest))
    assert np.isfinite(found.flat).all()


class Broken(Exception):
    """Stands for a kill: nothing of ours catches it."""


def test_what_was_scored_in_time_outlives_a_crash(tmp_path: Path, fresh: np.ndarray):
    model, seen = tiny.base(), []

    def break_late(*_: object) -> None:
        seen.append(1)
        if len(seen) > 12:
            raise Broken

    model.model.register_forward_hook(break_late)
    runtime = tiny.budget(64, checkpoint_every_s=1e-9)
    with pytest.raises(Broken):
        scored(tmp_path, model=model, runtime=runtime)
    found, scoring = scored(tmp_path)
    assert 0 < scoring.recalled < 30
    assert scoring.scored == 30 - scoring.recalled
    assert np.abs(found - fresh).max() < 1e-5


@pytest.mark.parametrize("family", ["llama", "mamba"])  # in shared rows, and in plain ones
def test_out_of_memory_cuts_the_micro_batch_finer_and_goes_on(
    tmp_path: Path, family: str, caplog: pytest.LogCaptureFixture
):
    expected = reference_logps(tiny.base(family), PAIRS, SMALL).logps
    model, seen = tiny.base(family), []

    def run_out(_: object, given: tuple[torch.Tensor]) -> None:
        seen.append(given[0].numel())
        if seen[-1] > 250:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore")

    model.get_input_embeddings().register_forward_pre_hook(run_out)
    with caplog.at_level(logging.WARNING, "tasks.dpo.capacity.budget"):
        found, scoring = scored(tmp_path, model=model, runtime=tiny.budget(800))
    assert [record.getMessage() for record in caplog.records if record.name == "tasks.dpo.capacity.budget"] == [
        "memory ran out at 800 tokens at once: going on with 400",
        "memory ran out at 400 tokens at once: going on with 200",
    ]
    assert sum(size > 250 for size in seen) == 2, "what was learnt stays for the micro-batches that follow"
    assert np.abs(found - expected).max() < 1e-5
    assert scoring.scored == 30
    again = np.concatenate(list(ReferencePass(never, SMALL, recall(tmp_path)).blocks(PAIRS)))
    assert np.array_equal(again, found)


@pytest.mark.parametrize(
    ("error", "told"), [(Broken(), Broken), (torch.OutOfMemoryError("CUDA out of memory"), ConfigError)], ids=str
)
def test_what_was_scored_before_an_error_is_kept(tmp_path: Path, error: Exception, told: type[Exception]):
    model, seen = tiny.base(), []

    def break_late(*_: object) -> None:
        seen.append(1)
        if len(seen) > 12:
            raise error

    model.model.register_forward_hook(break_late)
    with pytest.raises(told):
        scored(tmp_path, model=model)
    _, scoring = scored(tmp_path)
    assert 0 < scoring.recalled < 30
    assert scoring.scored == 30 - scoring.recalled


def test_a_sharded_base_stops_at_the_end_of_a_pass_and_keeps_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, seen, kept = tiny.base(), [], []

    def stop_late(*_: object) -> None:
        seen.append(1)
        if len(seen) == 12:
            os.kill(os.getpid(), signal.SIGTERM)

    model.model.register_forward_hook(stop_late)
    monkeypatch.setattr(sharding, "is_sharded", lambda _: True)
    rows = recall(tmp_path)
    append = rows.store.append
    monkeypatch.setattr(rows.store, "append", lambda *row: kept.append(len(row[2])) or append(*row))
    with pytest.raises(Preempted, match="run again to go on: what was scored is kept"):
        list(ReferencePass(lambda: model, SMALL, rows).blocks(PAIRS))
    assert len(kept) == 1
    assert 0 < kept[0] < 30
    assert len(seen) == 12


def test_told_to_stop_it_keeps_what_is_scored_and_goes_on_from_there(tmp_path: Path, fresh: np.ndarray):
    model, seen = tiny.base(), []

    def stop_late(*_: object) -> None:
        seen.append(1)
        if len(seen) == 12:
            os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    model.model.register_forward_hook(stop_late)
    with pytest.raises(Preempted, match="run again to go on: what was scored is kept"):
        scored(tmp_path, model=model)
    assert len(seen) == 12
    assert signal.getsignal(signal.SIGTERM) is handler
    found, scoring = scored(tmp_path)
    assert 0 < scoring.recalled < 30
    assert scoring.scored == 30 - scoring.recalled
    assert np.abs(found - fresh).max() < 1e-5


def test_an_adapter_that_is_the_reference_stays_on_and_any_other_is_off(fresh: np.ndarray):
    model = tiny.moved(tiny.policy())
    off = reference_logps(model, PAIRS, SMALL).logps
    on = reference_logps(model, PAIRS, SMALL, with_adapter=True).logps
    assert np.array_equal(off, fresh)
    merged = reference_logps(model.merge_and_unload(), PAIRS, SMALL).logps
    assert np.abs(on - merged).max() < 1e-4
    assert np.abs(on - off).max() > 1e-2


def test_a_reference_without_a_store_is_scored_whole_and_told_so_when_stopped(fresh: np.ndarray):
    model = tiny.base()
    model.model.register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Preempted, match="run again from the start"):
        reference_logps(model, PAIRS, SMALL)
    assert not torch.is_inference_mode_enabled()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(ROOT / "tests/dpo/known_rows_script.py"), str(folder)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.e2e
def test_ranks_without_a_shared_disk_share_the_work_and_know_the_same_values(ranks: Path):
    one, other = (json.loads((ranks / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert one["counts"] == other["counts"]
    (some, rest, none) = one["counts"]
    assert (some, none) == ([5, 0], [0, 17])
    assert rest[0] + rest[1] == 17
    assert rest[1] > 5, "what was scored before the stop is kept"
    assert all(told["same"] and told["first"] for told in (one, other))
    values = [np.load(ranks / f"rank{rank}.npy") for rank in (0, 1)]
    assert np.array_equal(*values)
    assert np.abs(values[0] - reference_logps(tiny.base(), tiny.pairs(17), SMALL).logps).max() < 1e-5


@pytest.mark.e2e
def test_a_stop_is_told_on_every_rank(ranks: Path):
    for rank in (0, 1):
        assert "told to stop" in json.loads((ranks / f"rank{rank}.json").read_text())["stopped"]
