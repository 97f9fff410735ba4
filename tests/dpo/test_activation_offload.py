"""Activations that wait on the host come back as they were; weights never leave."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tasks.dpo.capacity.memory import Recompute
from tasks.dpo.model.adapter import adapter_parameters
from tasks.dpo.scoring.scorer import Scorer
from tasks.dpo.training import activation_offload
from tasks.dpo.training.activation_checkpointing import set_modes
from tasks.dpo.training.activation_offload import offloading
from tests.dpo import tiny

ROWS = [tiny.pairs(3).row(i) for i in range(3)]
CPU = torch.device("cpu")


def gradients(model: Any, is_on: bool, level: Recompute, device: torch.device = CPU) -> list[torch.Tensor]:
    """Return the log-probabilities and every adapter's gradient; the backward runs outside of the block."""
    model.zero_grad(set_to_none=True)
    set_modes(model, level)
    with Scorer(model, ROWS) as scorer:
        with offloading(is_on, device):
            logps = scorer.logps(scorer.lay_out(ROWS))
        logps.square().sum().backward()
    return [logps.detach(), *(parameter.grad for parameter in adapter_parameters(model))]


@pytest.mark.parametrize("level", list(Recompute))
def test_gradients_are_the_same_to_the_last_bit(level: Recompute, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(activation_offload, "LEAST_BYTES", 1)
    model = tiny.moved(tiny.policy())
    expected = gradients(model, False, level)
    assert all(map(torch.equal, gradients(model, True, level), expected))


def copies(monkeypatch: pytest.MonkeyPatch, level: Recompute, is_on: bool = True) -> list[tuple[int, ...]]:
    """Return the shapes of what is copied to the host during one forward."""
    monkeypatch.setattr(activation_offload, "LEAST_BYTES", 1)
    found: list[tuple[int, ...]] = []
    whole = torch.empty

    def empty(*shape: Any, **options: Any) -> torch.Tensor:
        if "pin_memory" in options:
            found.append(tuple(shape[0]))
        return whole(*shape, **options)

    monkeypatch.setattr(torch, "empty", empty)
    gradients(tiny.moved(tiny.policy()), is_on, level)
    return found


def test_with_every_layer_recomputed_what_enters_the_layers_goes_out(monkeypatch: pytest.MonkeyPatch):
    tokens = sum(len(row.prompt) + len(row.chosen) - 1 + len(row.rejected) - 1 for row in ROWS)
    out = copies(monkeypatch, Recompute.FULL)
    assert out.count((1, tokens, 32)) >= 2, "what enters each of two layers"
    assert len(out) < 12, "and little beside it"


def test_no_weight_goes_out(monkeypatch: pytest.MonkeyPatch):
    out = copies(monkeypatch, Recompute.NONE)
    weights = {
        tuple(shape) for p in tiny.policy().parameters() for shape in (p.shape, p.t().shape if p.ndim == 2 else ())
    }
    assert len(out) > 20
    assert not weights & set(out)


def test_what_is_off_or_small_stays(monkeypatch: pytest.MonkeyPatch):
    assert copies(monkeypatch, Recompute.NONE, is_on=False) == []
    x = torch.ones(activation_offload.LEAST_BYTES // 4 + 1, requires_grad=True)
    assert activation_offload._is_worth_it(x * 1, CPU)
    monkeypatch.setattr(activation_offload, "LEAST_BYTES", 1 << 30)
    assert not activation_offload._is_worth_it(x * 1, CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_on_cuda_what_waited_in_pinned_memory_comes_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(activation_offload, "LEAST_BYTES", 1)
    device = torch.device("cuda")
    model = tiny.moved(tiny.policy().to(device))
    expected = gradients(model, False, Recompute.FULL, device)
    for one, other in zip(gradients(model, True, Recompute.FULL, device), expected, strict=True):
        assert float((one - other).abs().max() / other.abs().max()) < 1e-5
