"""A sharded base (gloo, two ranks on the CPU) scores and trains as a whole one does in one process.

By DeepSpeed it does so in the `e2e` tier, where DeepSpeed is installed: pip install -e ".[deepspeed]".
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.multiprocessing.reductions import StorageWeakRef

from tasks.core.errors import ConfigError
from tasks.dpo.capacity.budget import Budget, within
from tasks.dpo.capacity.step_plan import Sizes, evened, micro_batches
from tasks.dpo.model import deepspeed_zero3
from tasks.dpo.model.anatomy import decoder_layers
from tasks.dpo.model.sharding import is_sharded, is_wanted, place, shard_frozen
from tests.conftest import ROOT
from tests.dpo import sharding_script, tiny

SCENES = tuple(sharding_script.SCENES)
HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(
    not HAS_DEEPSPEED, reason="DeepSpeed is not installed: pip install -e '.[deepspeed]'"
)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("fsdp", marks=pytest.mark.e2e),
        pytest.param("deepspeed", marks=[pytest.mark.e2e, needs_deepspeed]),
    ],
)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """Run the scenes whole and on two ranks, which start while this process works; the findings of all three."""
    alone, two = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(ROOT / "tests/dpo/sharding_script.py"), str(two), request.param]
    modules = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": modules, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=env, cwd=two, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as ranks:
        sharding_script.main(alone, request.param)
        output = ranks.communicate(timeout=150)[0]
    assert ranks.returncode == 0, output.decode()
    paths = (alone / "rank0.json", two / "rank0.json", two / "rank1.json")
    one, first, second = (json.loads(path.read_text()) for path in paths)
    return one, first, second


@pytest.mark.parametrize("scene", SCENES)
def test_a_sharded_base_gives_the_curves_of_a_whole_one(runs: tuple[Any, Any, Any], scene: str):
    one, first, second = (part[scene] for part in runs)
    assert len(one["steps"]) == 3
    assert tiny.nest_gap(one["steps"], first["steps"]) < 1e-5
    assert tiny.nest_gap(one["evals"], first["evals"]) < 1e-5
    assert (first["steps"], first["evals"]) == (second["steps"], second["evals"])


def test_a_base_with_products_in_bfloat16_is_sharded_too(runs: tuple[Any, Any, Any]):
    """Sharded layers keep their own norms, and how pairs are cut moves what is rounded: near, and not the same."""
    one, first, second = (part["in bfloat16"] for part in runs)
    assert first == second
    assert one[0]["margin"] == 0.0
    assert abs(first[0]["margin"]) < 1e-3
    assert tiny.nest_gap([row["loss"] for row in one], [row["loss"] for row in first]) < 2e-3


@pytest.mark.parametrize("scene", SCENES)
def test_a_sharded_base_gives_the_adapter_of_a_whole_one(runs: tuple[Any, Any, Any], scene: str):
    one, first, second = (part[scene]["adapter"] for part in runs)
    assert first == second
    assert tiny.nest_gap(one, first) < 1e-5


@pytest.mark.parametrize("scene", SCENES)
def test_a_rank_holds_its_half_of_the_layers_weights_and_whole_adapters(runs: tuple[Any, Any, Any], scene: str):
    one, first, second = (part[scene] for part in runs)
    assert one["cut"] == []
    assert first["own"] + second["own"] == first["whole"] > 0
    assert abs(first["own"] - second["own"]) <= 0.2 * first["whole"]
    assert all(".layers." in name and "lora_" not in name for name in first["cut"])
    assert one["bytes"] - first["bytes"] == 4 * second["own"], "the memory that the preflight counts"
    model = tiny.policy(sharding_script.SCENES[scene][0])
    frozen = [p for n, p in model.named_parameters() if ".layers." in n and "lora_" not in n]
    assert first["whole"] == sum(parameter.numel() for parameter in frozen), "every frozen weight of a layer is cut"


@pytest.mark.parametrize("name", sharding_script.REFERENCES)
def test_a_sharded_reference_scores_as_a_whole_one_in_one_process(runs: tuple[Any, Any, Any], name: str):
    one, first, second = (part["references"][name] for part in runs)
    count = sharding_script.REFERENCES[name][1]
    assert len(one["logps"]) == int(sharding_script.PAIRS.lengths[:count, 1:].sum())
    assert first["logps"] == second["logps"]
    assert tiny.nest_gap(one["logps"], first["logps"]) < 1e-5


@pytest.mark.parametrize("name", sharding_script.REFERENCES)
def test_a_rank_without_rows_to_score_passes_as_often_as_the_other(runs: tuple[Any, Any, Any], name: str):
    one, first, second = (part["references"][name] for part in runs)
    assert one["cut"] == []
    assert first["own"] + second["own"] == first["whole"] > 0, "the weights were sharded while it scored"
    assert first["passes"] == second["passes"] > 0


def test_a_sharded_reference_scores_only_what_the_store_lacks(runs: tuple[Any, Any, Any]):
    whole = runs[0]["references"]["many passes"]["logps"]
    for part in runs:
        counts = {name: run["counts"] for name, run in part["store"].items() if name != "stopped"}
        assert counts == {"eight": [8, 0, 1], "sixteen": [8, 8, 1], "seventeen": [1, 16, 1], "all": [0, 17, 0]}
    for name in ("eight", "sixteen", "seventeen", "all"):
        one, first, second = (part["store"][name]["logps"] for part in runs)
        assert first == second
        assert tiny.nest_gap(one, first) < 1e-5
    for part in runs:
        sixteen, seventeen, every = (part["store"][name]["logps"] for name in ("sixteen", "seventeen", "all"))
        assert seventeen[: len(sixteen)] == sixteen, "what was known keeps its bits"
        assert every == seventeen
        assert tiny.nest_gap(whole, every) < 1e-5


def test_a_stop_that_reaches_one_rank_of_a_sharded_reference_ends_all_and_loses_nothing(runs: tuple[Any, Any, Any]):
    one, first, second = (part["store"]["stopped"] for part in runs)
    for run in (one, first, second):
        assert "told to stop — run again to go on: what was scored is kept" in run["said"]
        scored, recalled, _ = run["counts"]
        assert (1 if run is one else 2) <= recalled < 17, "all stop behind the pass that they were in, not the block"
        assert scored + recalled == 17
    assert first["counts"] == second["counts"]
    assert first["logps"] == second["logps"]
    assert tiny.nest_gap(one["logps"], first["logps"]) < 1e-5


def test_a_sharded_policy_saves_the_same_files(runs: tuple[Any, Any, Any]):
    one, first, second = (part["hashes"] for part in runs)
    assert one == first == second


def test_every_rank_does_the_same_number_of_passes_and_each_pair_counts_once():
    pairs = tiny.pairs(17, longest=40)
    sizes = Sizes.of(pairs, is_shared=True)
    for count, budget, ranks in ((17, 96, 2), (17, 256, 4), (3, 64, 4), (1, 96, 3)):
        batches = micro_batches(np.arange(count), sizes, budget, ranks)
        passes = [evened(batches, sizes, rank, ranks) for rank in range(ranks)]
        assert len({len(of_rank) for of_rank in passes}) == 1
        counted = [row for of_rank in passes for rows, counts in of_rank if counts for row in rows.tolist()]
        assert sorted(counted) == list(range(count))
        smallest = int(pairs.lengths[:count].sum(axis=1).argmin())
        idle = [rows.tolist() for of_rank in passes for rows, counts in of_rank if not counts]
        assert all(rows == [smallest] for rows in idle)


def test_one_pair_on_three_ranks_is_two_passes_for_nothing():
    sizes = Sizes.of(tiny.pairs(1), is_shared=True)
    batches = micro_batches(np.arange(1), sizes, 96, 3)
    assert sorted(evened(batches, sizes, rank, 3)[0][1] for rank in range(3)) == [False, False, True]


def test_memory_that_runs_out_ends_the_run_with_advice_and_halves_nothing():
    budget, tries = Budget(4096, 10, is_sharded=True), []

    def work(tokens: int) -> None:
        tries.append(tokens)
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ConfigError, match=r"memory ran out at 4,096 tokens.* — lower `runtime.tokens_per_micro_batch`"):
        within(budget, work, lambda: None)
    assert tries == [4096]


@pytest.mark.parametrize("by", ["fsdp", "deepspeed"])
def test_a_quantised_base_is_not_cut(by: Any):
    model = tiny.policy()
    model.get_base_model().is_quantized = True
    with pytest.raises(ConfigError, match=r"the base is quantised — set `base.quantise: none`"):
        shard_frozen(model, Accelerator(cpu=True), by)
    assert not is_sharded(model)


@pytest.mark.skipif(HAS_DEEPSPEED, reason="DeepSpeed is installed")
def test_where_deepspeed_is_missing_the_command_that_installs_it_is_told_before_a_weight_is_cut():
    model = tiny.policy()
    with pytest.raises(ConfigError, match=r"DeepSpeed is not installed — `pip install 'deepspeed>=0.19.8,<0.20'`"):
        shard_frozen(model, Accelerator(cpu=True), "deepspeed")
    assert not is_sharded(model)


def test_an_old_deepspeed_is_refused_by_its_number(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.18.2")
    with pytest.raises(ConfigError, match=r"DeepSpeed 0.18.2 is too old for it — `pip install"):
        deepspeed_zero3.refuse_unless_installed()


@pytest.mark.e2e
@needs_deepspeed
def test_a_deepspeed_that_works_on_another_kind_of_device_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    with pytest.raises(ConfigError, match=r"the model on meta — run again with DS_ACCELERATOR=meta in the environment"):
        deepspeed_zero3.shard([], torch.device("meta"))


@pytest.mark.parametrize("by", ["none", "fsdp", "deepspeed"])
def test_one_rank_has_nothing_to_shard_and_needs_no_deepspeed(by: Any):
    runtime, alone = tiny.budget(96, sharding=by), Accelerator(cpu=True)
    assert not is_wanted(runtime, alone)
    assert not is_sharded(place(tiny.policy(), alone, runtime))


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_leaves_its_weight_and_no_view_of_it_to_backward(bias: bool):
    torch.manual_seed(0)
    plain, lean = (torch.nn.Linear(5, 3, bias=bias).requires_grad_(False) for _ in range(2))
    lean.load_state_dict(plain.state_dict())
    deepspeed_zero3.keep_no_view(lean)
    gradients = []
    for layer in (plain, lean):
        x = torch.arange(20.0).reshape(2, 2, 5).requires_grad_()
        y = layer(x)
        if layer is lean:
            storage, whole = StorageWeakRef(layer.weight.untyped_storage()), layer.weight.data.clone()
            layer.weight.data = torch.empty(0)  # as it is between forward and backward
            assert storage.expired()
            layer.weight.data = whole
        y.square().sum().backward()
        gradients.append((y.detach(), x.grad))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "opt", "bloom", "phi3"])
def test_the_decoder_layers_are_found_in_any_family(family: str):
    for model in (tiny.base(family), tiny.policy(family)):
        layers = decoder_layers(model)
        assert len(layers) == 2
        assert len({type(layer) for layer in layers}) == 1
        assert sum(p.numel() for p in layers[0].parameters()) > 1000


def test_a_model_without_a_list_of_layers_is_refused():
    with pytest.raises(ConfigError, match=r"a Linear has no list of layers"):
        decoder_layers(torch.nn.Linear(2, 2))
