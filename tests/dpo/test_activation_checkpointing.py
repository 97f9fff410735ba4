"""What backward computes again: the same gradients at every level, in less and less memory, with less and less kept."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.dpo.capacity.memory import Recompute
from tasks.dpo.model.adapter import LoraSettings, adapter_parameters
from tasks.dpo.scoring.scorer import Mechanisms, Scorer
from tasks.dpo.training.activation_checkpointing import set_modes
from tests.dpo import tiny

ROWS = [tiny.pairs(3).row(i) for i in range(3)]
LONG = [tiny.pairs(4, longest=200).row(i) for i in range(4)]
# what is computed again is told operation by operation, so it is counted and weighed where nothing is fused
UNFUSED = Mechanisms(fused=False)
FAMILIES = ("llama", "qwen3", "gemma2", "gpt_neox", "olmo2", "falcon_alibi", "opt", "phi3")


def gradients(model: Any, level: Recompute, rows: Any = ROWS, mechanisms: Mechanisms | None = None) -> list[Any]:
    """Return the log-probabilities and every adapter's gradient."""
    model.zero_grad(set_to_none=True)
    set_modes(model, level)
    with Scorer(model, ROWS, mechanisms) as scorer:
        logps = scorer.logps(scorer.lay_out(rows))
        logps.square().sum().backward()
    return [logps.detach(), *(parameter.grad for parameter in adapter_parameters(model))]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("level", [Recompute.SELECTIVE, Recompute.FULL])
def test_every_level_gives_the_same_gradients(family: str, level: Recompute):
    model = tiny.moved(tiny.policy(family))
    expected = gradients(model, Recompute.NONE)
    for one, other in zip(gradients(model, level), expected, strict=True):
        assert float((one - other).abs().max() / other.abs().max()) < 1e-5


@pytest.mark.parametrize("mechanisms", [Mechanisms(lean_lora=False), Mechanisms(shared_prefix=False)], ids=str)
def test_the_middle_level_needs_neither_lean_layers_nor_shared_rows(mechanisms: Mechanisms):
    model = tiny.moved(tiny.policy())
    expected = gradients(model, Recompute.NONE, mechanisms=mechanisms)
    for one, other in zip(gradients(model, Recompute.SELECTIVE, mechanisms=mechanisms), expected, strict=True):
        assert float((one - other).abs().max() / other.abs().max()) < 1e-5


class Counted(TorchDispatchMode):
    """Counts operations that are really done."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def done_again(level: Recompute) -> dict[str, int]:
    """Return how many more products, attentions and square roots of norms a step does than without recomputing."""
    found = []
    for each in (Recompute.NONE, level):
        model = tiny.moved(tiny.policy())
        with Counted() as counted:
            gradients(model, each, mechanisms=UNFUSED)
        found.append(counted.counts)
    none, counts = found
    wanted = {"products": "aten.mm.default", "norms": "aten.rsqrt.default"}
    again = {name: counts[key] - none[key] for name, key in wanted.items()}
    again["attentions"] = sum(n for name, n in (counts - none).items() if "attention" in name)
    return again


def test_the_full_level_does_every_layer_again():
    again = done_again(Recompute.FULL)
    # two layers: seven linears of two products each, less the last ones, after which nothing is needed
    assert again["products"] > 20
    assert again["norms"] == 4
    assert again["attentions"] > 0


def test_the_middle_level_does_norms_again_and_neither_products_nor_attention():
    assert done_again(Recompute.SELECTIVE) == {"products": 0, "norms": 4, "attentions": 0}


def kept_bytes(model: Any, level: Recompute) -> int:
    """Return what a forward leaves allocated for its backward."""
    set_modes(model, level)
    with Scorer(model, ROWS, UNFUSED) as scorer:
        batch = scorer.lay_out(LONG)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            logps = scorer.logps(batch)
        assert logps.requires_grad
        return sum(event.self_cpu_memory_usage for event in seen.events())


def test_each_level_keeps_less_than_the_one_before():
    shape = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = tiny.moved(tiny.policy(lora=LoraSettings(rank=4, alpha=8), **shape))
    none, selective, full = (kept_bytes(model, level) for level in Recompute)
    assert selective < 0.7 * none
    assert full < 0.3 * none
