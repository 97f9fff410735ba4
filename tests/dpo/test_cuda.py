"""On a CUDA device: bfloat16 base and compute, float32 adapters, and the same start as on a CPU."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.core.runtime import RuntimeConfig
from tasks.dpo.model.adapter import LoraSettings, adapter_parameters, attach_lora
from tasks.dpo.reference.reference_pass import reference_logps
from tasks.dpo.training.trainer import train
from tests.dpo import tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]


def test_training_starts_at_ln_2_and_learns_in_bfloat16_with_float32_adapters() -> None:
    base = tiny.base("llama", 0).to("cuda", torch.bfloat16)
    policy = attach_lora(base, LoraSettings(rank=4, alpha=8), seed=1)
    runtime = RuntimeConfig(tokens_per_micro_batch=512)
    train_set, test_set = (
        reference_logps(policy, tiny.pairs(count, seed), runtime) for count, seed in ((64, 0), (7, 9))
    )
    result = train(policy, train_set, test_set, tiny.config(learning_rate=5e-3, pairs_per_step=8, epochs=4), runtime)
    assert {p.dtype for p in adapter_parameters(policy)} == {torch.float32}
    assert {p.dtype for p in policy.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert result.before["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert result.steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert result.steps[-1]["loss"] < 0.6
