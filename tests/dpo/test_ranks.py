"""One process, two and four (gloo, on the CPU) train the same adapter, score the same reference, say the same."""

from __future__ import annotations

import contextlib
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

SCENES = ("plain", "one batch", "checkpointing", "unreached", "dropout", "head", "one cannot share", "stopped")
Folders = dict[int, Path]  # by the number of ranks
Findings = dict[int, list[Any]]  # likewise, one for each rank
FOUR = pytest.param(4, marks=pytest.mark.e2e)  # twice the processes that a small machine has cores for
several = pytest.mark.parametrize("ranks", [2, FOUR])


def started(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start Python with ``command`` and another hash seed than this process has."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "77"}
    whole = [sys.executable, *command]
    return subprocess.Popen(whole, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Run the scenes alone and on several ranks, which start while this process works."""
    here = [item for item in request.session.items if item.path == request.path]
    counts = (1, 2, 4) if any(item.get_closest_marker("e2e") for item in here) else (1, 2)
    found = {ranks: tmp_path_factory.mktemp(f"ranks{ranks}") for ranks in counts}
    script = str(ROOT / "tests/dpo/ranks_script.py")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    with contextlib.ExitStack() as stack:
        several = [stack.enter_context(started(found[2], *torchrun, script, str(found[2])))]
        several += [stack.enter_context(started(found[4], script, str(found[4]), "4"))] if 4 in found else []
        ranks_script.main(found[1])
        for processes in several:
            said = processes.communicate(timeout=150)[0]
            assert processes.returncode == 0, said.decode()
    return found


@pytest.fixture(scope="module")
def found(folders: Folders) -> Findings:
    return {
        ranks: [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)]
        for ranks, folder in folders.items()
    }


@several
@pytest.mark.parametrize("scene", SCENES)
def test_several_ranks_give_the_training_curve_of_one(found: Findings, scene: str, ranks: int):
    one, first = found[1][0][scene]["steps"], found[ranks][0][scene]["steps"]
    assert len(one) == 6
    assert {"loss", "margin", "accuracy", "grad_norm"} <= one[0].keys()
    assert tiny.nest_gap(one, first) < 1e-5


@several
@pytest.mark.parametrize("scene", SCENES)
def test_seven_held_out_pairs_give_the_same_metrics_on_several_ranks(found: Findings, scene: str, ranks: int):
    one, first = found[1][0][scene]["evals"], found[ranks][0][scene]["evals"]
    assert tiny.nest_gap(one[0], first[0]) < 1e-6
    assert tiny.nest_gap(one, first) < 1e-5
    for a, b in zip(one, first, strict=True):
        assert a["accuracy"] == b["accuracy"], "a pair counted twice, or not at all, would show"


@several
@pytest.mark.parametrize("scene", SCENES)
def test_every_rank_knows_the_same_numbers(found: Findings, scene: str, ranks: int):
    first, *others = (part[scene] for part in found[ranks])
    for other in others:
        assert (first["steps"], first["evals"]) == (other["steps"], other["evals"])


@several
@pytest.mark.parametrize("scene", SCENES)
def test_adapters_are_equal_on_all_ranks_and_near_those_of_one(found: Findings, scene: str, ranks: int):
    one = found[1][0][scene]["adapter"]
    first, *others = (part[scene]["adapter"] for part in found[ranks])
    assert all(first == other for other in others)
    assert tiny.nest_gap(one, first) < 1e-5


@pytest.mark.parametrize("ranks", [1, 2, FOUR])
def test_gradient_checkpointing_changes_nothing_on_any_number_of_ranks(found: Findings, ranks: int):
    for part in found[ranks]:
        assert tiny.nest_gap(part["plain"], part["checkpointing"]) < 1e-5


@several
def test_the_reference_is_complete_and_the_same_on_every_rank(folders: Folders, ranks: int):
    one = np.load(folders[1] / "reference0.npy")
    first, *others = (np.load(folders[ranks] / f"reference{rank}.npy") for rank in range(ranks))
    assert all(np.array_equal(first, other) for other in others)
    assert np.array_equal(one, first)


@several
def test_a_stop_that_reaches_one_rank_stops_all_and_all_go_on_without_a_shared_disk(found: Findings, ranks: int):
    first, *others = (part["stopped"] for part in found[ranks])
    assert [part["stopped"]["stops"] for part in found[1] + found[ranks]] == [2] * (1 + ranks)
    assert first["checkpoint"] is not None
    assert all(other["checkpoint"] is None for other in others), "no other rank's own disk ever held a checkpoint"
    # a stop has the steps so far reduced at once, and more than two ranks' sums are rounded by how many are reduced
    bound = 0.0 if ranks == 2 else 1e-12
    for part in found[1] + found[ranks]:
        assert tiny.nest_gap(part["stopped"]["steps"], part["plain"]["steps"]) <= bound
        assert part["stopped"]["evals"] == part["plain"]["evals"]
        assert part["stopped"]["adapter"] == part["plain"]["adapter"]


@several
def test_other_processes_with_another_hash_seed_save_an_adapter_in_the_same_bytes(found: Findings, ranks: int):
    assert all(part["hashes"] == found[1][0]["hashes"] for part in found[ranks])


@several
def test_divergence_is_told_alike_on_every_rank(found: Findings, ranks: int):
    assert "training diverged" in found[1][0]["diverged"]
    first, *others = (part["diverged"] for part in found[ranks])
    assert "training diverged" in first
    assert all(first == other for other in others)
