"""Lean LoRA layers against PEFT's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from tasks.dpo.scoring.lora import is_lean, make_lean, make_plain
from tests.dpo import tiny


class Two(torch.nn.Module):
    """Two linears, one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(12, 20), torch.nn.Linear(20, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def model(dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["first", "second"], init_lora_weights=False, **options)
    return get_peft_model(Two().to(dtype), config, autocast_adapter_dtype=True)


def passed(net: Any, dtype: torch.dtype = torch.float32) -> tuple[Tensor, list[Tensor]]:
    """Return the output, and the gradients of the input and of every adapter."""
    net.zero_grad(set_to_none=True)
    x = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    y = net(x)
    y.float().square().sum().backward()
    return y.detach(), [x.grad, *(p.grad for p in net.parameters() if p.requires_grad)]


def lean_layers(net: Any) -> int:
    return sum(is_lean(module) for module in net.modules())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 3e-2)], ids=str)
def test_outputs_and_gradients_are_pefts(dtype: torch.dtype, tolerance: float):
    net = model(dtype)
    expected, slopes = passed(net, dtype)
    make_lean(net)
    assert lean_layers(net) == 2
    actual, gradients = passed(net, dtype)
    for a, b in zip([actual, *gradients], [expected, *slopes], strict=True):
        assert a.dtype == b.dtype
        assert float((a - b).abs().max() / b.abs().max()) < tolerance


def test_adapters_switched_off_leave_the_base_alone():
    net = model()
    make_lean(net)
    x = torch.randn(2, 12)
    with net.disable_adapter():
        off = net(x)
    plain = model().unload()
    assert torch.equal(off, plain(x))


def test_dropout_that_trains_is_pefts_own():
    net = model(lora_dropout=0.5).train()
    torch.manual_seed(3)
    expected, _ = passed(net)
    make_lean(net)
    torch.manual_seed(3)
    assert torch.equal(passed(net)[0], expected)
    net.eval()
    assert not torch.equal(passed(net)[0], expected)


def test_layers_with_a_variant_keep_pefts_forward():
    net = model(use_dora=True)
    expected, _ = passed(net)
    make_lean(net)
    assert lean_layers(net) == 0
    assert torch.equal(passed(net)[0], expected)


def test_merged_adapters_are_not_added_twice():
    net = model()
    expected, _ = passed(net)
    make_lean(net)
    net.merge_adapter()
    assert float((passed_forward(net) - expected).abs().max()) < 1e-5


def passed_forward(net: Any) -> Tensor:
    with torch.no_grad():
        return net(torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(1)))


def test_plain_layers_come_back():
    net = tiny.policy()
    before = [type(module) for module in net.modules()]
    for _ in range(2):
        make_lean(net)
        assert lean_layers(net) == 14
    make_plain(net)
    assert [type(module) for module in net.modules()] == before


def test_activations_are_kept_once_and_in_their_own_type():
    # PEFT keeps a float32 copy of every bfloat16 input; lean layers keep the input itself
    def kept(net: Any) -> int:
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        x = torch.randn(64, 12, dtype=torch.bfloat16, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            net(x).float().sum()
        return sum(sizes.values())

    net = model(torch.bfloat16)
    before = kept(net)
    make_lean(net)
    assert kept(net) < 0.8 * before
