"""Who is in training mode: the adapters' dropout and nothing else, before, during and after scoring."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.dpo.capacity.memory import Recompute
from tasks.dpo.model.adapter import LoraSettings
from tasks.dpo.model.evaluation import evaluation_mode
from tasks.dpo.reference.reference_pass import reference_logps
from tasks.dpo.scoring.scorer import Scorer
from tasks.dpo.training.activation_checkpointing import set_modes
from tests.dpo import tiny

HALF = LoraSettings(rank=4, alpha=8, dropout=0.5)


def modes(model: torch.nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_only_the_adapters_dropout_trains():
    model = tiny.policy("gpt_neox", lora=HALF)
    set_modes(model, Recompute.NONE)
    training = [name for name, module in model.named_modules() if module.training]
    assert training
    assert all("lora_dropout" in name for name in training)


@pytest.mark.parametrize("level", [Recompute.NONE, Recompute.FULL])
def test_scoring_leaves_every_module_in_the_mode_it_had(level: Recompute):
    model = tiny.policy(lora=HALF)
    set_modes(model, level)
    before = modes(model)
    with Scorer(model) as scorer:
        scorer.logps(scorer.lay_out([tiny.pairs(1).row(0)]))
    reference_logps(model, tiny.pairs(2))
    assert modes(model) == before
    assert any(before)


def test_evaluation_mode_is_left_on_an_exception_too():
    model = tiny.policy(lora=HALF).train()
    with evaluation_mode(model):
        assert not any(modes(model))
    with pytest.raises(KeyError), evaluation_mode(model):
        raise KeyError
    assert all(modes(model))


def test_dropout_takes_part_in_training_and_not_in_evaluation():
    pairs = tiny.pairs(8)
    still, noisy = (
        tiny.run(pairs, tiny.config(pairs_per_step=4, lora=lora), model=tiny.moved(tiny.policy(lora=lora)))[0]
        for lora in (tiny.LORA, HALF)
    )
    assert noisy.before == still.before
    assert abs(noisy.steps[0]["loss"] - still.steps[0]["loss"]) > 1e-4


def forwards_of_a_layer(gradient_checkpointing: bool) -> int:
    model, calls = tiny.policy(), []
    model.get_base_model().model.layers[0].self_attn.q_proj.register_forward_hook(lambda *_: calls.append(1))
    config = tiny.config(pairs_per_step=8, lora=tiny.LORA)
    tiny.run(tiny.pairs(8), config, tiny.budget(65536, gradient_checkpointing=gradient_checkpointing), model=model)
    return len(calls)


def test_gradient_checkpointing_runs_each_layer_once_more_a_step():
    assert forwards_of_a_layer(True) == forwards_of_a_layer(False) + 1


def test_a_base_that_drops_out_in_its_own_forward_stays_still_under_gradient_checkpointing():
    # OPT drops out in the layer itself, which gradient checkpointing puts in training mode
    config = tiny.config(pairs_per_step=4, lora=tiny.LORA)
    result, _ = tiny.run(tiny.pairs(8), config, tiny.budget(64, gradient_checkpointing=True), family="opt")
    assert result.before["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert result.steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
