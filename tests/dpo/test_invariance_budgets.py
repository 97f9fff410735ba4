"""The token budgets that machines really have, from 512 to 65,536 tokens at once, give one curve."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tasks.dpo.capacity.step_plan import Plan, Sizes
from tests.dpo import tiny

BUDGETS = (512, 2048, 8192, 65536)
PAIRS = tiny.pairs(128, longest=120)  # 180 tokens a pair or so: steps of 52, 52 and 24 pairs
CONFIG = tiny.config(
    label_smoothing=0.1, nll_weight=0.5, learning_rate=5e-3, pairs_per_step=52, evaluations=1, lora=tiny.LORA
)


def trained(tokens: int) -> dict[str, Any]:
    """Train with a budget; return the curves, the adapter, its types, and the micro-batches of all steps."""
    model, seen = tiny.policy(seed=CONFIG.seed), list[int]()
    model.get_base_model().model.register_forward_hook(lambda *_: seen.append(int(torch.is_grad_enabled())))
    result, _ = tiny.run(PAIRS, CONFIG, tiny.budget(tokens), tiny.pairs(9, 99, longest=120), model=model)
    adapter = {name: tensor.tolist() for name, tensor in tiny.adapter_state(model).items()}
    curve = {"steps": result.steps, "evals": result.evals}
    return {"curve": curve, "adapter": adapter, "micro": sum(seen), "types": {p.dtype for p in model.parameters()}}


@pytest.fixture(scope="module")
def found() -> dict[int, dict[str, Any]]:
    return {tokens: trained(tokens) for tokens in BUDGETS}


def test_the_smallest_budget_cuts_every_step_and_the_largest_takes_each_at_once(found: dict[int, dict[str, Any]]):
    steps, sizes = Plan(len(PAIRS), CONFIG.pairs_per_step, 1, CONFIG.seed), Sizes.of(PAIRS, is_shared=True)
    tokens = [sizes.tokens(steps.rows(step)) for step in range(steps.steps)]
    assert len(tokens) == 3
    assert 2048 < min(tokens) < 8192 < max(tokens) < 65536
    micro = [found[budget]["micro"] for budget in BUDGETS]
    assert micro[0] >= sum(count / 512 for count in tokens) > 40
    assert micro[0] > micro[1] > micro[2] > micro[3] == len(tokens)


@pytest.mark.parametrize("tokens", BUDGETS[:-1])
def test_any_budget_gives_the_curve_and_the_adapter_of_whole_steps(found: dict[int, dict[str, Any]], tokens: int):
    whole, cut = found[BUDGETS[-1]], found[tokens]
    assert whole["types"] == cut["types"] == {torch.float32}
    assert len(whole["curve"]["steps"]) == 3
    assert [row["step"] for row in whole["curve"]["evals"]] == [0, 3]
    assert {"loss", "margin", "accuracy", "grad_norm", "nll"} <= whole["curve"]["steps"][0].keys()
    assert tiny.nest_gap(whole["curve"], cut["curve"]) < 1e-5
    assert tiny.nest_gap(whole["adapter"], cut["adapter"]) < 1e-5
