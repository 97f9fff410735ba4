"""Fused norms and gated parts against what the modules compute by themselves, in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.dpo.model.adapter import LoraSettings, adapter_parameters
from tasks.dpo.scoring.fusion_cpu import fuse, unfuse
from tasks.dpo.scoring.lora import make_lean
from tests.dpo import tiny

FAMILIES = ("llama", "qwen3", "gemma2", "gemma3", "olmo2", "granite", "smollm3")


def parts(model: Any) -> tuple[Any, Any]:
    """Return a norm and the feed-forward part of the first layer."""
    layer = model.get_base_model().model.layers[0]
    return layer.post_attention_layernorm, layer.mlp


def passed(module: Any, size: int = 32, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return the output, and the gradients of the input and of what the module trains."""
    x = (2 * torch.randn(3, 7, size, generator=torch.Generator().manual_seed(1))).to(dtype).requires_grad_()
    trained = [p for p in module.parameters() if p.requires_grad]
    y = module(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *trained])]


def fused(model: Any) -> Any:
    make_lean(model)
    fuse(model)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_and_feed_forward_parts_give_what_their_own_forward_gives(family: str):
    model = tiny.moved(tiny.policy(family))
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(torch.linspace(-0.5, 0.5, len(parameter)))
    expected = [passed(part, dtype=torch.float64) for part in parts(copy.deepcopy(model).double())]
    for part, want in zip(parts(fused(model)), expected, strict=True):
        for a, b in zip(passed(part), want, strict=True):
            assert float((a - b).abs().max() / b.abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("family", "norms", "gates"),
    [("llama", 5, 2), ("qwen3", 9, 2), ("gemma2", 9, 0), ("phi3", 5, 0), ("gpt_neox", 0, 0), ("opt", 0, 0)],
)
def test_what_is_fused_is_what_is_known(family: str, norms: int, gates: int):
    names = [type(module).__name__ for module in fused(tiny.policy(family)).modules()]
    assert sum(name.startswith("Fused") and name.endswith("Norm") for name in names) == norms
    assert sum(name.startswith("Fused") and name.endswith("MLP") for name in names) == gates


def test_a_norm_that_computes_something_else_under_the_same_name_is_left_alone():
    class OddRMSNorm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = torch.nn.Parameter(torch.ones(8), requires_grad=False), 1e-6

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * x * torch.rsqrt(x.abs().mean(-1, keepdim=True) + self.eps)

    odd = OddRMSNorm()
    fuse(odd)
    assert type(odd) is OddRMSNorm


def test_modules_get_their_own_classes_back_even_when_fused_twice():
    model = tiny.policy()
    before = [type(module) for module in model.modules()]
    fuse(model)
    once = [type(module) for module in model.modules()]
    fuse(model)
    assert [type(module) for module in model.modules()] == once != before
    unfuse(model)
    assert [type(module) for module in model.modules()] == before


def test_a_way_down_whose_dropout_trains_takes_pefts_own_forward():
    model = fused(tiny.moved(tiny.policy(lora=LoraSettings(rank=4, alpha=8, dropout=0.9))))
    mlp = parts(model)[1]
    x = torch.ones(1, 5, 32)
    still = mlp(x)
    mlp.train()
    assert not torch.allclose(mlp(x), still)
    assert len(adapter_parameters(model)) == 28


def test_a_way_down_without_adapters_is_given_their_product():
    model = fused(tiny.moved(tiny.policy(lora=LoraSettings(rank=4, alpha=8, target_modules=("q_proj", "up_proj")))))
    mlp = parts(model)[1]
    actual = passed(mlp)
    unfuse(model)
    for a, b in zip(actual, passed(mlp), strict=True):
        assert float((a - b).detach().abs().max() / b.detach().abs().max()) < 1e-5
