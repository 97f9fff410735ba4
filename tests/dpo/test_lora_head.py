"""A head with an adapter, in half precision: logits in float32, as those of the bare head are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tasks.dpo.model.adapter import LoraSettings, adapter_parameters, attach_lora
from tasks.dpo.scoring.head import FrozenHead, GeneralHead
from tasks.dpo.scoring.scorer import Scorer
from tests.dpo import tiny

ADAPTED = LoraSettings(rank=4, alpha=8, target_modules=("q_proj", "down_proj", "lm_head"))
PAIRS = tiny.pairs(6, longest=60)
ROWS = [PAIRS.row(i) for i in range(len(PAIRS))]


def policy(dtype: torch.dtype, lora: LoraSettings = ADAPTED, family: str = "llama") -> Any:
    return attach_lora(tiny.base(family).to(dtype), lora, 1)


def logps(model: Any, kind: type) -> torch.Tensor:
    with Scorer(model, ROWS) as scorer, torch.no_grad():
        assert type(scorer.head) is kind
        return scorer.logps(scorer.lay_out(ROWS))


@pytest.mark.parametrize("family", ["llama", "granite"])
def test_an_untrained_policy_equals_its_reference_in_bfloat16(family: str):
    reference = logps(tiny.base(family).bfloat16(), FrozenHead)
    actual = logps(policy(torch.bfloat16, family=family), GeneralHead)
    assert float((actual - reference).abs().max()) < 1e-5


def test_adapters_switched_off_give_the_reference_too():
    reference, model = logps(tiny.base().bfloat16(), FrozenHead), tiny.moved(policy(torch.bfloat16))
    with model.disable_adapter():
        actual = logps(model, GeneralHead)
    assert float((actual - reference).abs().max()) < 1e-5


def test_values_and_gradients_are_those_of_float32_as_far_as_bfloat16_goes():
    actual = []
    for dtype in (torch.bfloat16, torch.float32):
        model = tiny.moved(policy(torch.bfloat16))
        if dtype == torch.float32:
            model.float()  # the same weights
        hidden = 3 * torch.randn(50, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
        hidden = hidden.to(dtype).requires_grad_()
        with Scorer(model, ROWS) as scorer:
            scores = scorer.head.score(hidden, torch.arange(50), with_collision=True)
            scores.logp_N.square().sum().backward()
        slopes = [p.grad for name, p in model.named_parameters() if "lm_head.lora" in name]
        actual.append((scores.logp_N.detach(), scores.collision_N, [hidden.grad, *slopes]))
    (logp, collision, gradients), (expected_logp, expected_collision, expected) = actual
    assert float((logp - expected_logp).abs().max()) < 1e-4
    assert float((collision - expected_collision).abs().max()) < 1e-4
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.float32, torch.float32]
    for a, b in zip(gradients, expected, strict=True):
        assert float((a.float() - b).abs().max() / b.abs().max()) < 2e-2


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_in_float32_nothing_changes(dropout: float):
    lora = LoraSettings(rank=4, alpha=8, dropout=dropout, target_modules=("lm_head",))
    model = tiny.moved(tiny.policy(lora=lora)).train()
    with Scorer(model, ROWS) as scorer:
        module, hidden = model.get_base_model().lm_head, torch.randn(20, 32)
        label = torch.arange(20)
        torch.manual_seed(0)
        actual = scorer.head.score(hidden, label).logp_N
        torch.manual_seed(0)
        expected = GeneralHead(module, scorer.head.shape).score(hidden, label).logp_N
    assert torch.equal(actual, expected)


def test_dropout_in_half_precision_drops_of_the_update_alone():
    lora = LoraSettings(rank=4, alpha=8, dropout=0.5, target_modules=("lm_head",))
    model = policy(torch.bfloat16, lora).train()  # an update of nothing: whatever is dropped, the base's logits stay
    with Scorer(model, ROWS) as scorer:
        batch = scorer.lay_out(ROWS)
        actual = scorer.logps(batch)
        actual.sum().backward()
    reference = logps(tiny.base().bfloat16(), FrozenHead)
    assert float((actual.detach() - reference).abs().max()) < 1e-5
    assert any(float(p.grad.abs().max()) > 0 for p in adapter_parameters(model))
