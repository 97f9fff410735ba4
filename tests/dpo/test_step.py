"""A step's gradient for every objective: the same however the step is cut, and what the data's columns do."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.core.errors import ConfigError, Preempted
from tasks.dpo.model.adapter import adapter_parameters
from tasks.dpo.objective.loss_table import LOSSES
from tasks.dpo.reference.reference_pass import reference_logps
from tasks.dpo.training.moving_reference import MovingReference
from tasks.dpo.training.trainer import train
from tasks.pairs.tokens.token_cache import TokenPairs
from tests.dpo import tiny

PAIRS = tiny.pairs(13)  # steps of 6, 6 and 1
CONFIG = tiny.config(beta=0.3, learning_rate=5e-3, pairs_per_step=6, lora=tiny.LORA)
OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"loss": name} for name in LOSSES},
    "exo_pair": {"loss": "exo_pair", "label_smoothing": 1e-3},
    "sft": {"loss": "sft"},
    "a mix": {"loss": {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}},
    "forward KL": {"divergence": "forward_kl"},
    "LD-DPO": {"ld_alpha": 0.4},
    "WPO": {"wpo": True},
    "a reward shift": {"loss": "bco_pair", "bco_momentum": 0.7},
    "adaptive β": {"adaptive_beta_gain": 0.6},
}


def weighted(pairs: TokenPairs, **columns: Any) -> TokenPairs:
    """Return the pairs with a weight or margin column."""
    given = {name: np.asarray(list(values), np.float32) for name, values in columns.items()}
    return dataclasses.replace(pairs, **given)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_token_budget_changes_no_objective(options: dict[str, Any]):
    config = tiny.changed(CONFIG, learning_rate=1e-3, **options)
    whole, other = tiny.run(PAIRS, config, tiny.budget(65536))
    split, model = tiny.run(PAIRS, config, tiny.budget(40))
    assert tiny.gap(whole, split) < 1e-5
    state, again = tiny.adapter_state(other), tiny.adapter_state(model)
    assert max(float((state[name] - again[name]).abs().max()) for name in state) < 1e-4


def test_a_loss_that_sorts_is_taken_over_the_whole_step():
    # the sorted loss of six pairs is not the mean of the sorted losses of their halves
    config = tiny.changed(CONFIG, loss="aot", epochs=1)
    model, pairs = tiny.moved(tiny.policy()), tiny.pairs(6)
    whole = tiny.run(pairs, dataclasses.replace(config, learning_rate=1e-12), tiny.budget(10), model=model)[0]
    halves = dataclasses.replace(config, learning_rate=1e-12, pairs_per_step=3)
    apart = tiny.run(pairs, halves, tiny.budget(10), model=model)[0]
    assert abs(whole.steps[0]["loss"] - np.mean([row["loss"] for row in apart.steps])) > 1e-4


def test_the_weight_of_a_pair_counts_like_so_many_copies_of_it():
    # the step's loss is Σ w loss / Σ w: weights 1, 2, 3 are the pairs once, twice and three times
    pairs = tiny.pairs(3)
    copies = [0, 1, 1, 2, 2, 2]
    repeated = TokenPairs.of_rows(
        [pairs.row(i) for i in copies], [f"{i:016x}" for i in range(6)], [f"{i:016x}" for i in copies]
    )
    config = tiny.changed(CONFIG, nll_weight=0.5)
    one, model = tiny.run(weighted(pairs, weights=[1, 2, 3]), config)
    two, other = tiny.run(repeated, config)
    for name in ("loss", "nll", "grad_norm"):
        assert one.steps[0][name] == pytest.approx(two.steps[0][name], rel=1e-5)
    assert one.steps[0]["accuracy"] != pytest.approx(10)  # other means are over pairs, whatever their weight
    state, again = tiny.adapter_state(model), tiny.adapter_state(other)
    assert max(float((state[name] - again[name]).abs().max()) for name in state) < 1e-5


@pytest.mark.parametrize(
    ("options", "weight"),
    [
        ({"loss": "sigmoid", "nll_weight": 0.5}, 0.5),
        ({"loss": "aot", "nll_weight": 0.5}, 0.5),
        ({"loss": {"sigmoid": 1.0, "sft": 0.5}, "nll_weight": 0.25}, 0.75),
        ({"loss": "sft"}, 1.0),
    ],
    ids=["sigmoid", "aot", "a mix", "sft"],
)
def test_the_loss_that_is_told_has_its_nll_term(options: dict[str, Any], weight: float):
    still = tiny.changed(CONFIG, learning_rate=1e-12)
    plain, _ = tiny.run(PAIRS, tiny.changed(still, loss="aot" if options["loss"] == "aot" else "sigmoid"))
    found, _ = tiny.run(PAIRS, tiny.changed(still, **options))
    for row, other in zip([*found.steps, *found.evals], [*plain.steps, *plain.evals], strict=True):
        of_pairs = 0.0 if options["loss"] == "sft" else other["loss"]
        assert row["nll"] > 0
        assert row["loss"] == pytest.approx(of_pairs + weight * row["nll"], rel=1e-12)
    assert [row["nll"] for row in found.steps] == [row["nll"] for row in plain.steps]
    assert all("nll" not in row for row in plain.evals), "their objective has no such term"


def test_the_nll_of_held_out_pairs_is_a_weighted_mean_over_their_chosen_tokens():
    pairs = weighted(tiny.pairs(7, 99), weights=range(1, 8))
    found, model = tiny.run(PAIRS, tiny.changed(CONFIG, learning_rate=1e-12, loss="sft"), test_pairs=pairs)
    chosen = reference_logps(model, pairs).sums(np.arange(7))[0].numpy()
    expected = -(chosen * pairs.weights).sum() / (pairs.lengths[:, 1] * pairs.weights).sum()
    assert found.before["nll"] == pytest.approx(expected, rel=1e-5)
    assert found.before["loss"] == found.before["nll"]


def test_a_margin_in_the_data_is_taken_off_the_reward():
    # at step 0 h = 0, so the loss is -log σ(-m): with m = 2, ln(1 + e²) = 2.126928
    pairs = weighted(tiny.pairs(4), margins=[2.0] * 4)
    result, _ = tiny.run(pairs, CONFIG)
    assert result.steps[0]["loss"] == pytest.approx(math.log1p(math.exp(2)), abs=1e-5)


@pytest.mark.parametrize(
    ("loss", "column", "told"),
    [("aot", "weights", r"aot.*no place for the weights"), ("ipo", "margins", r"ipo.*margins")],
)
def test_a_column_that_the_loss_would_ignore_is_refused(loss: str, column: str, told: str):
    pairs = weighted(tiny.pairs(4), **{column: [1, 2, 3, 4]})
    with pytest.raises(ConfigError, match=told):
        tiny.run(pairs, tiny.changed(CONFIG, loss=loss))


def test_ld_dpo_weighs_policy_and_reference_alike():
    # at step 0 both are one model, so every log-ratio is 0 whatever the weights
    result, _ = tiny.run(PAIRS, tiny.changed(CONFIG, ld_alpha=0.25))
    assert result.before["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert result.before["margin"] == pytest.approx(0, abs=1e-4)


def test_wpo_weighs_by_the_policys_own_tokens():
    # by hand: a = mean of log π(y_t) - log Σ π², weight min(1, e^(a_w + a_l)), and the loss at step 0 is ln 2 each
    model, pairs = tiny.policy(), tiny.pairs(1)
    row = pairs.row(0)
    means = []
    for completion in (row.chosen, row.rejected):
        ids = torch.from_numpy(np.concatenate([row.prompt, completion]).astype(np.int64))[None]
        with torch.no_grad():
            logp = torch.log_softmax(model(input_ids=ids).logits[0, len(row.prompt) - 1 : -1].double(), -1)
        own = logp.gather(-1, ids[0, len(row.prompt) :, None]).squeeze(-1)
        means.append(float((own - (2 * logp).logsumexp(-1)).mean()))
    expected = math.log(2) * min(1.0, math.exp(sum(means)))
    result, _ = tiny.run(pairs, tiny.changed(CONFIG, wpo=True), model=tiny.policy())
    assert result.steps[0]["loss"] == pytest.approx(expected, rel=1e-4)


class Overflowing(torch.nn.Module):
    """Runs out of memory above so many tokens at once, as a GPU does."""

    def __init__(self, inner: torch.nn.Module, most: int) -> None:
        super().__init__()
        self.inner, self.most, self.failed = inner, most, 0

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() and hidden.shape[1] > self.most:
            self.failed += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore")
        return self.inner(hidden, *args, **kwargs)


def overflowing(most: int) -> tuple[Any, Overflowing]:
    model = tiny.policy(seed=CONFIG.seed)
    layers = model.get_base_model().model.layers
    layers[0].mlp = Overflowing(layers[0].mlp, most)
    return model, layers[0].mlp


@pytest.mark.parametrize("options", [{}, {"loss": "aot"}], ids=["sigmoid", "aot"])
def test_out_of_memory_halves_the_budget_and_goes_on_from_the_same_step(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
):
    config = tiny.changed(CONFIG, **options)
    expected, _ = tiny.run(PAIRS, config, tiny.budget(65536))
    model, guard = overflowing(60)
    scored = [reference_logps(tiny.policy(), part) for part in (PAIRS, tiny.pairs(7, 99))]
    with caplog.at_level(logging.WARNING):
        found = train(model, *scored, config, tiny.budget(200))
    assert guard.failed == 2  # 200, 100, then 50 fits
    assert tiny.gap(found, expected) < 1e-5
    told = [record.message for record in caplog.records if "memory ran out" in record.message]
    assert told == [
        "memory ran out at 200 tokens at once: going on with 100",
        "memory ran out at 100 tokens at once: going on with 50",
    ]


def test_a_pair_that_does_not_fit_alone_is_one_clear_error():
    model, _ = overflowing(3)
    scored = [reference_logps(tiny.policy(), part) for part in (PAIRS, tiny.pairs(7, 99))]
    with pytest.raises(ConfigError, match=r"memory ran out on a single pair \(\d+ tokens") as caught:
        train(model, *scored, CONFIG, tiny.budget(64))
    assert "max_prompt_tokens" in str(caught.value)


# A reference that moves


def flat(model: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in adapter_parameters(model)])


def test_the_epoch_mode_is_a_run_of_runs_each_against_the_last():
    # two epochs with the reference refreshed = one epoch, then another whose reference is what the first one made
    config = tiny.changed(CONFIG, epochs=2, schedule="constant", warmup_share=0.0, weight_decay=0.0)
    update = dataclasses.replace(config.reference_update, mode="epoch")
    result, _ = tiny.run(PAIRS, dataclasses.replace(config, reference_update=update))
    fixed, _ = tiny.run(PAIRS, config)
    assert result.steps[:3] == fixed.steps[:3]
    assert result.steps[3]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert abs(fixed.steps[3]["loss"] - math.log(2)) > 1e-2
    # held-out numbers are against the fixed one: behind one epoch they are those of the run that never moved it
    assert result.evals[2] == fixed.evals[2]


def test_the_moving_reference_is_the_average_of_the_paper():
    # α = 1 every step: the reference is always the policy of the step before, so every step's loss is ln 2
    update = dataclasses.replace(CONFIG.reference_update, mode="moving", mix=1.0, every_steps=1)
    result, _ = tiny.run(PAIRS, dataclasses.replace(CONFIG, reference_update=update))
    assert [row["loss"] for row in result.steps] == pytest.approx([math.log(2)] * 3, abs=1e-4)
    # α small: nearly fixed
    still = dataclasses.replace(update, mix=1e-6)
    result, _ = tiny.run(PAIRS, dataclasses.replace(CONFIG, reference_update=still))
    fixed, _ = tiny.run(PAIRS, CONFIG)
    assert tiny.gap(result, fixed) < 1e-3


@pytest.mark.parametrize("loss", ["sigmoid", "aot"])
def test_a_moved_reference_is_scored_once_a_step(loss: str, monkeypatch: pytest.MonkeyPatch):
    update, calls = dataclasses.replace(CONFIG.reference_update, mode="moving", every_steps=1), []
    logps = MovingReference.logps
    monkeypatch.setattr(MovingReference, "logps", lambda *words: calls.append(1) or logps(*words))
    config = dataclasses.replace(tiny.changed(CONFIG, loss=loss), reference_update=update)
    tiny.run(tiny.pairs(12), config, tiny.budget(65536))
    assert len(calls) == 2  # steps, each one micro-batch


@pytest.mark.parametrize("mode", ["epoch", "moving"])
def test_a_moved_reference_and_running_means_are_part_of_a_checkpoint(mode: str, tmp_path: Path):
    update = dataclasses.replace(CONFIG.reference_update, mode=mode, mix=0.5, every_steps=2)
    config = dataclasses.replace(
        tiny.changed(CONFIG, loss="bco_pair", bco_momentum=0.7, epochs=3), reference_update=update
    )
    straight, model = tiny.run(PAIRS, config, tiny.budget(40))
    calls = []

    def stop_in_step_5(*_: object) -> None:
        calls.append(torch.is_grad_enabled())
        if sum(calls) == 20:
            os.kill(os.getpid(), signal.SIGTERM)

    first = tiny.policy(seed=config.seed)
    first.get_base_model().model.register_forward_hook(stop_in_step_5)
    with pytest.raises(Preempted):
        tiny.run(PAIRS, config, tiny.budget(40), checkpoints=tmp_path, model=first)
    resumed, again = tiny.run(PAIRS, config, tiny.budget(40), checkpoints=tmp_path)
    assert resumed.steps == straight.steps
    assert torch.equal(flat(again), flat(model))
