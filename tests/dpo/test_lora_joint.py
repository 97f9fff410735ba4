"""LoRA layers of one input, computed together, against each by itself."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from tasks.dpo.scoring.fusion_cpu import fuse, unfuse
from tasks.dpo.scoring.lora import make_lean, make_plain
from tasks.dpo.scoring.lora_joint import together
from tests.dpo import tiny


class Three(torch.nn.Module):
    """Three linears of one input, of other widths, one without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = torch.nn.Linear(12, 20), torch.nn.Linear(12, 8)
        self.three = torch.nn.Linear(12, 5, bias=False)


def layers_of(**options: Any) -> list[Any]:
    torch.manual_seed(0)
    config = LoraConfig(
        r=4,
        rank_pattern={"two": 2},
        alpha_pattern={"three": 20},
        lora_alpha=12,
        target_modules=["one", "two", "three"],
        init_lora_weights=False,
        **options,
    )
    net: Any = get_peft_model(Three(), config)
    make_lean(net)
    model = net.get_base_model()
    return [model.one, model.two, model.three]


def passed(results: list[Tensor], x: Tensor, layers: list[Any]) -> list[Tensor]:
    """Return the results, and the gradients of the input and of every adapter, in float64."""
    trained = [p for layer in layers for p in layer.parameters() if p.requires_grad]
    loss = sum((number + 1) * y.square().sum() for number, y in enumerate(results))
    grads = torch.autograd.grad(loss, [x, *trained] if x.requires_grad else trained)  # type: ignore[arg-type]
    return [actual.detach().double() for actual in (*results, *grads)]


def graph_names(*results: Tensor) -> list[str]:
    """Return the names of the operations that made tensors, each operation once."""
    seen: dict[int, Any] = {}
    waiting: list[Any] = [y.grad_fn for y in results]
    while waiting:
        node = waiting.pop()
        if node is not None and id(node) not in seen:
            seen[id(node)] = node
            waiting += [following for following, _ in node.next_functions]
    return [node.name() for node in seen.values()]


@pytest.mark.parametrize("needs_grad", [True, False], ids=["input-with-gradient", "input-without"])
def test_results_and_gradients_are_those_of_each_by_itself(needs_grad: bool) -> None:
    layers = layers_of()
    x = torch.randn(3, 7, 12, requires_grad=needs_grad)
    exact = copy.deepcopy(torch.nn.ModuleList(layers)).double()
    make_plain(exact)
    exact_x = x.detach().double().requires_grad_(needs_grad)
    want = passed([layer(exact_x) for layer in exact], exact_x, list(exact))

    results = together(layers, x, as_factors=True)

    assert results is not None
    results = [y.view(3, 7, -1) for y in results]
    assert sum("JointLoraLinear" in name for name in graph_names(*results)) == 1
    for actual, expected in zip(passed(results, x, layers), want, strict=True):
        assert float((actual - expected).abs().max() / expected.abs().max()) < 1e-6


def test_layers_that_drop_some_of_their_input_work_by_themselves() -> None:
    layers = layers_of(lora_dropout=0.5)
    for layer in layers:
        layer.train()

    assert together(layers, torch.randn(2, 12, requires_grad=True)) is None


def hidden_of(model: Any, ids: Tensor) -> Tensor:
    actual: Tensor = model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    return actual


def some_sum(hidden: Tensor) -> Tensor:
    """Return the entries' sum with random signs and sizes; a norm's squares would add up to a constant."""
    return (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(5))).sum()


@pytest.mark.parametrize(
    ("family", "operations"),
    # queries, keys and values; gate and way up
    [("llama", 4), ("qwen2", 4), ("gemma2", 2), ("phi3", 0), ("gpt_neox", 0)],
)
def test_a_models_layers_work_together_and_give_what_they_gave(family: str, operations: int) -> None:
    model = tiny.moved(tiny.policy(family))
    ids = torch.randint(4, 60, (2, 9))
    adapters = [p for p in model.parameters() if p.requires_grad]
    want_hidden = hidden_of(model, ids)
    want = torch.autograd.grad(some_sum(want_hidden), adapters)

    make_lean(model)
    fuse(model)
    hidden = hidden_of(model, ids)
    actual = torch.autograd.grad(some_sum(hidden), adapters, retain_graph=True)

    assert sum("JointLoraLinear" in name for name in graph_names(hidden)) == operations
    for a, b in zip((hidden.detach(), *actual), (want_hidden.detach(), *want), strict=True):
        assert float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())


def test_the_base_alone_is_the_base_alone() -> None:
    model = tiny.moved(tiny.policy())
    ids = torch.randint(4, 60, (2, 9))
    with model.disable_adapter():
        want = hidden_of(model, ids).detach()
        make_lean(model)
        fuse(model)
        assert float((hidden_of(model, ids) - want).abs().max()) < 1e-5


def test_nothing_of_a_batch_is_held_and_every_layer_gets_its_own_class_back() -> None:
    model = tiny.policy()
    before = [type(module) for module in model.modules()]
    make_lean(model)
    fuse(model)
    fuse(model)
    attention = next(module for module in model.modules() if hasattr(module, "v_proj"))
    x = torch.randn(1, 5, 32)
    ghost = weakref.ref(x)

    results = [layer(x) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]
    del x, results
    gc.collect()

    assert ghost() is None
    unfuse(model)
    make_plain(model)
    assert [type(module) for module in model.modules()] == before
    assert not any(hasattr(module, "siblings") for module in model.modules())


def test_a_projection_called_with_another_input_gives_what_belongs_to_it() -> None:
    model = tiny.moved(tiny.policy())
    make_lean(model)
    attention = next(module for module in model.modules() if hasattr(module, "v_proj"))
    one, other = torch.randn(1, 5, 32), torch.randn(1, 5, 32)
    want = attention.q_proj(one), attention.k_proj(other), attention.v_proj(one)

    fuse(model)
    actual = attention.q_proj(one), attention.k_proj(other), attention.v_proj(one)

    for a, b in zip(actual, want, strict=True):
        assert torch.allclose(a, b, 1e-5, 1e-6)
