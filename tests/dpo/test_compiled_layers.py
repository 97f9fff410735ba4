"""Compiled layers compute what plain ones do, with one graph for all layers and all batch sizes."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tasks.core.errors import ConfigError
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.capacity.memory import Recompute
from tasks.dpo.model.adapter import adapter_parameters
from tasks.dpo.scoring.scorer import Scorer
from tasks.dpo.training import trainer
from tasks.dpo.training.activation_checkpointing import set_modes
from tasks.dpo.training.compiled_layers import compile_layers, is_wanted
from tests.dpo import tiny

# torch's tracer looks at .grad of what a graph break hands on, and warns of it
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
SLOW = pytest.mark.nightly
ROWS = [tiny.pairs(6).row(i) for i in range(6)]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Forget what was compiled before."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def gradients(scorer: Scorer, count: int) -> list[torch.Tensor]:
    """Return the log-probabilities of the first pairs and every adapter's gradient."""
    scorer.model.zero_grad(set_to_none=True)
    logps = scorer.logps(scorer.lay_out(ROWS[:count]))
    logps.square().sum().backward()
    return [logps.detach(), *(p.grad for p in adapter_parameters(scorer.model) if p.grad is not None)]


def gap(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def check(family: str, level: Recompute, backend: str, **shape: Any) -> list[int]:
    """Compare compiled layers with float64's for several batch sizes; return the number of graphs after each."""
    model = tiny.moved(tiny.policy(family, **shape))
    set_modes(model, level)
    with Scorer(copy.deepcopy(model).double(), ROWS[:3]) as exact:
        expected = [gradients(exact, count) for count in (2, 4, 6)]
    with Scorer(model, ROWS[:3]) as scorer:
        assert scorer.is_shared
        compile_layers(model, backend)
        counts = []
        for count, plain in zip((2, 4, 6), expected, strict=True):
            assert gap(gradients(scorer, count), plain) < 1e-5
            counts.append(graphs())
    return counts


@SLOW
@pytest.mark.parametrize("family", ["gemma2", "gpt_neox"])
def test_compiled_layers_give_the_same_for_every_batch_size_with_the_same_graphs(family: str):
    counts = check(family, Recompute.NONE, "aot_eager")
    assert counts[0] == counts[1] == counts[2] > 0


@SLOW
@pytest.mark.parametrize("level", [Recompute.SELECTIVE, Recompute.FULL])
def test_parts_of_layers_that_are_computed_again_are_compiled_too(level: Recompute):
    counts = check("llama", level, "aot_eager")
    assert counts[0] == counts[1] == counts[2] > 0


@SLOW
def test_more_layers_are_no_more_graphs():
    found = []
    for layers in (3, 10):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        found.append(check("llama", Recompute.NONE, "aot_eager", num_hidden_layers=layers)[-1])
    assert found[0] == found[1]


@pytest.mark.e2e
def test_fused_layers_give_the_same():
    check("llama", Recompute.NONE, "inductor")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_fused_layers_give_the_same_on_cuda():
    model = tiny.moved(tiny.policy()).to("cuda")
    set_modes(model, Recompute.NONE)
    with Scorer(model, ROWS[:3]) as scorer:
        plain = gradients(scorer, 6)
        compile_layers(model)
        assert gap(gradients(scorer, 6), plain) < 1e-3


def test_auto_compiles_on_cuda_only():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    wanted = {
        word: (is_wanted(RuntimeConfig(compile=word), cpu), is_wanted(RuntimeConfig(compile=word), cuda))
        for word in ("on", "off", "auto")
    }
    assert wanted == {"on": (True, True), "off": (False, False), "auto": (False, True)}


def test_compiling_a_sharded_base_is_left_out_and_said_so_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(trainer, "is_sharded", lambda _: True)
    before = graphs()
    for word in ("on", "auto"):
        with caplog.at_level(logging.INFO, "tasks.dpo"):
            tiny.run(tiny.pairs(2), tiny.config(lora=tiny.LORA), tiny.budget(512, compile=word))
    assert graphs() == before
    told = [record.getMessage() for record in caplog.records if "compile" in record.getMessage()]
    assert told == ["`runtime.compile: on` has no effect here: the layers of a sharded base are not compiled"]


def test_without_a_c_compiler_a_cpu_is_told_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler on a CPU.*no-such-compiler.* — install one"):
        compile_layers(tiny.base())
