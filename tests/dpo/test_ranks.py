"""One process and two (gloo, on the CPU) train the same adapter, score the same reference, tell the same numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.dpo import ranks_script, tiny

SCENES = ("plain", "one batch", "checkpointing", "unreached", "head", "stopped")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Run the scenes alone and on two ranks, which start while this process works."""
    alone, two = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(ROOT / "tests/dpo/ranks_script.py"), str(two)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "77"}
    with subprocess.Popen(command, env=env, cwd=two, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as ranks:
        ranks_script.main(alone)
        said = ranks.communicate(timeout=150)[0]
    assert ranks.returncode == 0, said.decode()
    return alone, two


@pytest.fixture(scope="module")
def found(folders: tuple[Path, Path]) -> tuple[Any, Any, Any]:
    alone, two = folders
    paths = (alone / "rank0.json", two / "rank0.json", two / "rank1.json")
    one, first, second = (json.loads(path.read_text()) for path in paths)
    return one, first, second


@pytest.mark.parametrize("scene", SCENES)
def test_two_ranks_give_the_training_curve_of_one(found: tuple[Any, Any, Any], scene: str):
    one, first, _ = found
    assert len(one[scene]["steps"]) == 6
    assert tiny.nest_gap(one[scene]["steps"], first[scene]["steps"]) < 1e-5


@pytest.mark.parametrize("scene", SCENES)
def test_seven_held_out_pairs_give_the_same_metrics_on_two_ranks(found: tuple[Any, Any, Any], scene: str):
    one, first, _ = found
    assert tiny.nest_gap(one[scene]["evals"][0], first[scene]["evals"][0]) < 1e-6
    assert tiny.nest_gap(one[scene]["evals"], first[scene]["evals"]) < 1e-5
    for a, b in zip(one[scene]["evals"], first[scene]["evals"], strict=True):
        assert a["accuracy"] == b["accuracy"], "a pair counted twice, or not at all, would show"


@pytest.mark.parametrize("scene", SCENES)
def test_every_rank_knows_the_same_numbers(found: tuple[Any, Any, Any], scene: str):
    assert found[1][scene]["steps"] == found[2][scene]["steps"]
    assert found[1][scene]["evals"] == found[2][scene]["evals"]


@pytest.mark.parametrize("scene", SCENES[:-1])
def test_adapters_are_equal_on_both_ranks_and_near_those_of_one(found: tuple[Any, Any, Any], scene: str):
    one, first, second = (part[scene]["adapter"] for part in found)
    assert first == second
    assert tiny.nest_gap(one, first) < 1e-4


def test_gradient_checkpointing_changes_nothing_on_either(found: tuple[Any, Any, Any]):
    for part in found:
        assert tiny.nest_gap(part["plain"], part["checkpointing"]) < 1e-5


def test_the_reference_is_complete_and_the_same_on_every_rank(folders: tuple[Path, Path]):
    alone, two = folders
    one, first, second = (
        np.load(path) for path in (alone / "reference0.npy", two / "reference0.npy", two / "reference1.npy")
    )
    assert np.array_equal(first, second)
    assert np.array_equal(one, first)


def test_a_stop_that_reaches_one_rank_stops_all_and_all_go_on_without_a_shared_disk(found: tuple[Any, Any, Any]):
    one, first, second = (part["stopped"] for part in found)
    assert one["stops"] == first["stops"] == second["stops"] == 2
    assert first["checkpoint"] is not None
    assert second["checkpoint"] is None, "rank 1's own disk never held a checkpoint"
    for part in found:
        assert part["stopped"]["steps"] == part["plain"]["steps"]
        assert part["stopped"]["evals"] == part["plain"]["evals"]


def test_another_process_with_another_hash_seed_saves_an_adapter_in_the_same_bytes(found: tuple[Any, Any, Any]):
    one, first, second = (part["hashes"] for part in found)
    assert one == first == second


def test_divergence_is_told_alike_on_every_rank(found: tuple[Any, Any, Any]):
    one, first, second = (part["diverged"] for part in found)
    assert "training diverged" in one
    assert first == second
    assert "training diverged" in first
