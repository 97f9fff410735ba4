"""The head: exact log-probabilities and gradients, without the whole matrix of logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tasks.dpo.scoring.head import FrozenHead, GeneralHead, LogitShape

N, H, V = 50, 24, 301
SHAPES = {
    "plain": LogitShape(),
    "capped": LogitShape(cap=2.0),
    "scaled": LogitShape(times=0.3),
    "divided and capped": LogitShape(over=3.0, cap=1.0),
}


def inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(V, H, generator=numbers) / H**0.5, torch.randn(V, generator=numbers)
    hidden = (3 * torch.randn(N, H, generator=numbers)).requires_grad_()
    return hidden, torch.randint(0, V, (N,), generator=numbers), weight, bias


def naive(
    hidden: Tensor, label: Tensor, weight: Tensor, bias: Tensor | None, shape: LogitShape
) -> tuple[Tensor, Tensor]:
    logits = torch.nn.functional.linear(hidden, weight, bias) * shape.times / shape.over
    if shape.cap:
        logits = shape.cap * torch.tanh(logits / shape.cap)
    logp = torch.log_softmax(logits, -1)
    return logp.gather(-1, label[:, None]).squeeze(-1), (2 * logp.detach()).logsumexp(-1)


def slope(loss: Tensor, *of: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, of))


@pytest.mark.parametrize("tile", [(1, 301), (7, 100), (50, 7), (1000, 1000)], ids=str)
@pytest.mark.parametrize("has_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_two_products_give_the_plain_formula_and_its_gradient(shape: LogitShape, has_bias: bool, tile: tuple[int, int]):
    hidden, label, weight, bias = inputs()
    head = FrozenHead(weight, bias if has_bias else None, shape, tile)
    expected, collision = naive(hidden, label, weight, bias if has_bias else None, shape)
    actual = head.score(hidden, label, with_collision=True)
    factor = torch.linspace(-1, 2, N)
    assert float((actual.logp_N - expected).detach().abs().max()) < 1e-5
    assert float((actual.collision_N - collision).abs().max()) < 1e-5
    (got,), (want,) = (slope((factor * logp).sum(), hidden) for logp in (actual.logp_N, expected))
    assert float((got - want).abs().max() / want.abs().max()) < 1e-5


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_general_path_gives_it_too_and_the_heads_own_gradients(shape: LogitShape):
    hidden, label, weight, _ = inputs()
    module = torch.nn.Linear(H, V, bias=False)
    module.weight.data.copy_(weight)
    expected, collision = naive(hidden, label, module.weight, None, shape)
    actual = GeneralHead(module, shape, chunk=7).score(hidden, label, with_collision=True)
    assert float((actual.logp_N - expected).detach().abs().max()) < 1e-5
    assert float((actual.collision_N - collision).abs().max()) < 1e-5
    got, want = (slope(logp.square().sum(), hidden, module.weight) for logp in (actual.logp_N, expected))
    for a, b in zip(got, want, strict=True):
        assert float((a - b).abs().max() / b.abs().max()) < 1e-5


@pytest.mark.parametrize("words", [1, 2, 3])
def test_the_log_probability_of_a_hopeless_token_is_exact(words: int):
    # e^-200 is no float32: log Σ exp must not go by way of the token's own probability
    weight = torch.tensor([[0.0], [200.0], [100.0]])
    actual = FrozenHead(weight, tile=(1, words)).score(torch.ones(1, 1), torch.tensor([0]))
    assert actual.logp_N.item() == pytest.approx(-200.0, abs=1e-4)


def test_with_and_without_gradient_the_numbers_are_the_same_bits():
    hidden, label, weight, _ = inputs()
    head = FrozenHead(weight, tile=(16, 77))
    with torch.no_grad():
        still = head.score(hidden, label).logp_N
    assert torch.equal(still, head.score(hidden, label).logp_N.detach())


class Largest(TorchDispatchMode):
    """Keeps the largest number of elements of any tensor that an operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


@pytest.mark.parametrize("kind", ["frozen", "general"])
def test_logits_are_never_held_whole(kind: str):
    hidden, label, weight, _ = inputs()
    module = torch.nn.Linear(H, V, bias=False)
    head = FrozenHead(weight, tile=(20, 70)) if kind == "frozen" else GeneralHead(module, chunk=5)
    with Largest() as largest:
        head.score(hidden, label).logp_N.sum().backward()
    assert largest.elements < N * V / 2


def test_half_precision_hidden_states_get_float32_log_probabilities():
    hidden, label, weight, _ = inputs()
    low, w = hidden.detach().bfloat16().requires_grad_(), weight.bfloat16()
    actual = FrozenHead(w).score(low, label).logp_N
    expected, _ = naive(low.float(), label, w.float(), None, LogitShape())
    assert actual.dtype == torch.float32
    assert float((actual - expected).detach().abs().max()) < 1e-5
    (got,), (want,) = slope(actual.sum(), low), slope(expected.sum(), low)
    assert got.dtype == torch.bfloat16
    assert float((got - want).abs().max() / want.abs().max()) < 2e-2
