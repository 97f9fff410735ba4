"""Mixed precision on a CPU: products in bfloat16, everything else in float32, on every road through a model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.dpo.model.cpu_bfloat16 import MixedLinear, as_factor, mix, product_type
from tasks.dpo.scoring.head import FrozenHead
from tasks.dpo.scoring.scorer import Mechanisms, Scorer
from tasks.pairs.tokens.token_cache import TokenRow
from tests.dpo import tiny

ROUNDING = 2.0**-8  # the largest relative error of a number rounded to bfloat16


def mixed_policy(family: str = "llama") -> Any:
    """Return a policy whose adapters were moved, over a mixed base."""
    policy = tiny.moved(tiny.policy(family))
    mix(policy)
    return policy


def mixed_base_layers(policy: Any) -> list[Any]:
    return [module for module in policy.modules() if isinstance(module, MixedLinear)]


def rows_of(count: int, seed: int = 0) -> list[TokenRow]:
    tokens = tiny.pairs(count, seed)
    return [tokens.row(i) for i in range(count)]


def scored(policy: Any, rows: list[TokenRow], **off: bool) -> tuple[Tensor, list[Tensor]]:
    """Return the log-probabilities, and the adapters' gradients of a weighted sum of them."""
    policy.zero_grad(set_to_none=True)
    with Scorer(policy, rows, Mechanisms(**off)) as scorer:
        logp_N = scorer.logps(scorer.lay_out(rows))
        (logp_N * torch.linspace(-1, 1, len(logp_N))).sum().backward()
    return logp_N.detach(), [p.grad for p in policy.parameters() if p.requires_grad]


def apart(actual: list[Tensor], expected: list[Tensor]) -> float:
    """Return how far two lists of gradients are apart, relative to the second's size."""
    one, other = (torch.cat([part.flatten() for part in parts]).double() for parts in (actual, expected))
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 64), (130,)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_rounds_its_factors_and_its_result_and_adds_up_exactly(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer: Any = torch.nn.Sequential(torch.nn.Linear(300, 20, bias=bias)).requires_grad_(False)
    layer.get_output_embeddings = lambda: None
    mix(layer)
    x = torch.randn(*shape, 300, requires_grad=True)

    y = layer(x)

    weight, rounded = layer[0].weight, x.detach().bfloat16()
    exact = rounded.double() @ weight.double().t() + (layer[0].bias.double() if bias else 0.0)
    assert y.dtype == torch.float32
    assert y.shape == (*shape, 20)
    assert bool(((y - exact).abs() <= ROUNDING * exact.abs() + 1e-4).all())
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(slope, weight.float().sum(0).expand_as(x), 2 * ROUNDING, 1e-2)


@pytest.mark.parametrize(("count", "filled"), [(1, 1), (3, 4), (33, 64), (64, 64), (65, 128), (129, 192)])
def test_factors_have_few_shapes_and_zeros_below(count: int, filled: int) -> None:
    rows = torch.randn(count, 5)

    factor = as_factor(rows, torch.bfloat16)

    assert factor.shape == (filled, 5)
    assert torch.equal(factor[:count], rows.bfloat16())
    assert not factor[count:].any()
    assert as_factor(rows, torch.float32) is rows
    assert as_factor(factor, torch.bfloat16) is factor


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_the_embeddings_and_the_norms_stay_in_float32(tied: bool) -> None:
    base = tiny.base("llama")
    if tied:
        base.lm_head.weight = base.model.embed_tokens.weight

    mix(base)

    kinds = {name: parameter.dtype for name, parameter in base.named_parameters()}
    assert {name for name, kind in kinds.items() if kind == torch.bfloat16} == {n for n in kinds if "_proj" in n}
    assert (base.lm_head.weight is base.model.embed_tokens.weight) is tied
    assert base.lm_head.weight.dtype == torch.float32
    assert type(base.lm_head) is torch.nn.Linear
    assert product_type(base) == torch.bfloat16


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "phi3", "gpt_neox"])
def test_every_road_gives_what_pefts_layers_give(family: str) -> None:
    """Shared rows, fused parts and joint layers, against plain rows through PEFT's own forward."""
    rows = rows_of(6)

    want, slopes = scored(mixed_policy(family), rows, shared_prefix=False, lean_lora=False, fused=False)
    actual, gradients = scored(mixed_policy(family), rows)

    assert float((actual - want).abs().max()) < 0.1
    assert apart(gradients, slopes) < 0.06


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_against_float32_only_rounding_is_left(family: str) -> None:
    rows = rows_of(6)
    mixed = mixed_policy(family)
    single = copy.deepcopy(mixed)
    for layer in mixed_base_layers(single):
        layer.__class__ = torch.nn.Linear
    single.float()

    want, slopes = scored(single, rows)
    actual, gradients = scored(mixed, rows)

    assert 0 < float((actual - want).abs().max()) < 0.1
    assert float((actual - want).abs().mean()) < 0.015
    assert apart(gradients, slopes) < 0.06


def test_adapters_stay_in_float32() -> None:
    policy = mixed_policy()

    assert {p.dtype for p in policy.parameters() if p.requires_grad} == {torch.float32}
    assert len(mixed_base_layers(policy)) == sum("base_layer.weight" in name for name, _ in policy.named_parameters())


def test_adapters_switched_off_score_as_untrained_ones_do_to_the_bit() -> None:
    """The reference goes by other code than the policy; what differs would be a margin before the first step."""
    policy = tiny.policy("llama")  # B is 0
    mix(policy)
    rows = rows_of(6)

    with Scorer(policy, rows) as scorer:
        batch = scorer.lay_out(rows)
        with torch.no_grad(), policy.disable_adapter():
            reference_N = scorer.logps(batch)
        policy_N = scorer.logps(batch)

    assert policy_N.requires_grad
    assert torch.equal(policy_N.detach(), reference_N)


def test_the_heads_slope_is_rounded_and_its_logits_are_not() -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(700, 48, generator=draw) * 0.3
    hidden = torch.randn(70, 48, generator=draw)
    labels = torch.randint(0, 700, (70,), generator=draw)
    actual = []
    for products in (torch.float32, torch.bfloat16):
        leaf = hidden.clone().requires_grad_()
        logp = FrozenHead(weight, tile=(32, 300), products=products).score(leaf, labels).logp_N
        (slope,) = torch.autograd.grad(logp.sum(), leaf)
        actual.append((logp.detach(), slope))
    (exact, exact_slope), (rounded, slope) = actual

    assert torch.equal(rounded, exact)
    assert 0 < apart([slope], [exact_slope]) < ROUNDING
