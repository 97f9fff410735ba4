"""What may change speed and never results: batch shapes, budgets, splits, the log interval."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.core.errors import ConfigError, DataError
from tasks.dpo.dataset.scored_pairs import ScoredPairs
from tasks.dpo.model.adapter import LoraSettings, adapter_parameters
from tasks.dpo.reference.reference_pass import reference_logps
from tasks.dpo.training.trainer import train
from tests.dpo import tiny

PAIRS = tiny.pairs(18)  # steps of 8, 8 and 2
CONFIG = tiny.config(
    beta=0.2, label_smoothing=0.1, nll_weight=0.5, learning_rate=5e-3, pairs_per_step=8, epochs=2, lora=tiny.LORA
)


@pytest.fixture(scope="module")
def whole():
    return tiny.run(PAIRS, CONFIG, tiny.budget(65536))


def test_many_micro_batches_equal_one_big_batch(whole):
    # pairs of 2 to 24 tokens a branch: micro-batches of unequal pairs, and a last step of two pairs
    split, model = tiny.run(PAIRS, CONFIG, tiny.budget(96))
    assert tiny.gap(whole[0], split) < 1e-6
    assert len(whole[0].steps) == 6
    state, other = tiny.adapter_state(whole[1]), tiny.adapter_state(model)
    assert max(float((state[name] - other[name]).abs().max()) for name in state) < 1e-4


@pytest.mark.parametrize("tokens", [1, 37, 250])
def test_the_token_budget_does_not_change_the_curve(whole, tokens: int):
    assert tiny.gap(whole[0], tiny.run(PAIRS, CONFIG, tiny.budget(tokens))[0]) < 1e-5


@pytest.mark.parametrize("tokens", [1, 96])
def test_the_likelihood_term_does_not_depend_on_the_split(tokens: int):
    config = tiny.changed(CONFIG, nll_weight=3.0, epochs=1)
    one, other = (tiny.run(PAIRS, config, tiny.budget(budget))[0] for budget in (65536, tokens))
    for a, b in zip(one.steps, other.steps, strict=True):
        assert a["nll"] == pytest.approx(b["nll"], rel=1e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)


def test_loss_and_rewards_are_means_whatever_the_batch_size():
    # with a step so small that the policy stays where it is, one step of 18 pairs says what 18 steps say
    model = tiny.moved(tiny.policy())
    config = tiny.changed(CONFIG, epochs=1, learning_rate=1e-12, weight_decay=0.0, nll_weight=0.0)
    big, small = (tiny.run(PAIRS, dataclasses.replace(config, pairs_per_step=n), model=model)[0].steps for n in (18, 1))
    for name in ("loss", "margin", "reward_chosen", "reward_rejected", "accuracy"):
        assert big[0][name] == pytest.approx(np.mean([row[name] for row in small]), abs=1e-6)


def test_the_log_interval_and_the_number_of_evaluations_do_not_change_training(whole):
    one, _ = tiny.run(PAIRS, CONFIG, tiny.budget(65536, log_every_steps=1))
    few, _ = tiny.run(PAIRS, tiny.changed(CONFIG, evaluations=1), tiny.budget(65536))
    assert one.steps == whole[0].steps == few.steps
    assert few.after == whole[0].after
    assert [row["step"] for row in few.evals] == [0, 6]
    assert [row["step"] for row in whole[0].evals] == [0, 2, 3, 4, 6]


def test_more_evaluations_than_steps_evaluate_after_each_step():
    result, _ = tiny.run(tiny.pairs(4), tiny.config(pairs_per_step=2, evaluations=9, lora=tiny.LORA))
    assert [row["step"] for row in result.evals] == [0, 1, 2]


def test_the_same_run_twice_gives_the_same_numbers(whole, tmp_path: Path):
    again, model = tiny.run(PAIRS, CONFIG, tiny.budget(65536))
    assert again.steps == whole[0].steps
    assert again.evals == whole[0].evals
    assert tiny.adapter_bytes(model, tmp_path / "a") == tiny.adapter_bytes(whole[1], tmp_path / "b")


def test_another_seed_gives_other_numbers(whole):
    other, _ = tiny.run(PAIRS, tiny.changed(CONFIG, seed=43), tiny.budget(65536))
    assert tiny.gap(whole[0], other) > 1e-3


def test_training_learns_the_pairs(whole):
    config = tiny.changed(CONFIG, epochs=10, label_smoothing=0.0, nll_weight=0.0)
    result, _ = tiny.run(PAIRS, config, test_pairs=PAIRS)
    assert result.after["loss"] < 0.3 < result.before["loss"]
    assert result.after["accuracy"] > 0.95


def test_the_base_is_untouched_by_training():
    model = tiny.policy()
    base = {name: t.clone() for name, t in model.state_dict().items() if "lora_" not in name}
    tiny.run(PAIRS, CONFIG, model=model)
    after = {name: t for name, t in model.state_dict().items() if "lora_" not in name}
    assert base.keys() == after.keys()
    assert all(torch.equal(base[name], after[name]) for name in base)


def test_scoring_the_reference_beforehand_does_not_change_the_order_of_training(whole):
    torch.manual_seed(5)  # whatever the state of the global generators is
    np.random.default_rng(5).random(3)
    model = tiny.policy(seed=CONFIG.seed)
    held_out = reference_logps(model, tiny.pairs(7, 99))
    reference = reference_logps(tiny.base(), PAIRS)  # by another object, before
    reference_logps(model, tiny.pairs(50, 4))
    result = train(model, reference, held_out, CONFIG, tiny.budget(65536))
    assert result.steps == whole[0].steps


def test_a_parameter_that_no_pair_reaches_is_treated_as_on_many_ranks():
    # sums over ranks give it gradient zero, never none: AdamW's decay moves it in both cases
    model = tiny.policy("llama")
    lonely = adapter_parameters(model)[0]
    model.get_base_model().model.layers[0].self_attn.register_forward_hook(lambda *_: (torch.zeros(()), None))
    before = lonely.detach().clone()
    config = tiny.changed(CONFIG, epochs=1, weight_decay=0.5, learning_rate=1e-2, schedule="constant")
    tiny.run(PAIRS, config, model=model)
    after = lonely.detach()
    assert not torch.equal(before, after)
    assert float((after / before).std()) < 1e-4, "it only shrank"


def test_a_learning_rate_out_of_all_bounds_is_told_with_its_step(tmp_path: Path):
    config = tiny.changed(CONFIG, learning_rate=1e6, epochs=8)
    runtime = tiny.budget(65536, checkpoint_every_s=1e-9)
    with pytest.raises(ConfigError, match=r"training diverged: .*step \d+.* has .*lower `train.learning_rate`"):
        tiny.run(PAIRS, config, runtime, checkpoints=tmp_path)


def test_an_update_that_breaks_the_policy_is_told_by_the_evaluation_behind_it():
    scored = reference_logps(tiny.base(), PAIRS)
    config = tiny.changed(CONFIG, learning_rate=1e37, pairs_per_step=18, epochs=1)
    with pytest.raises(ConfigError, match="the held-out evaluation after step 1 has"):
        train(tiny.moved(tiny.policy()), scored, scored, config)


def test_no_pairs_are_refused():
    some, none = (reference_logps(tiny.base(), tiny.pairs(2)), ScoredPairs(tiny.pairs(0), np.zeros(0, np.float32)))
    for parts, name in (((none, some), "train"), ((some, none), "held-out")):
        with pytest.raises(DataError, match=f"there are no {name} pairs"):
            train(tiny.policy(), *parts, CONFIG)


def test_dropout_is_seeded_by_the_step_and_not_by_what_ran_before():
    config = tiny.changed(CONFIG, lora=LoraSettings(rank=4, alpha=8, dropout=0.3))
    curves = []
    for state in (1, 2):
        model = tiny.policy(seed=config.seed, lora=config.lora)
        torch.manual_seed(state)
        curves.append(tiny.run(PAIRS, config, model=model)[0].steps)
    assert curves[0] == curves[1]
