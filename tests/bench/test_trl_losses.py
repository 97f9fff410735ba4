"""Every loss that TRL has is TRL's, to float32's rounding: the loss and the gradient of all weights.

By hand, where TRL 1.16 can be imported: `PYTHONPATH=<folder of trl> pytest -m bench tests/bench/test_trl_losses.py`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tasks.dpo.objective.divergences import Divergence
from tasks.dpo.objective.loss_table import DIVERGENT, LOSSES, SORTED
from tasks.dpo.objective.pair_loss import ObjectiveConfig, PairLoss
from tests.bench import trl_losses

has_trl = importlib.util.find_spec("trl") is not None and importlib.metadata.version("trl").startswith("1.16.")
pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(not has_trl, reason="TRL 1.16 is not importable: put a folder that holds it on PYTHONPATH"),
]
SMOOTHED_BY_TRL = ("robust", "exo_pair", "aot", "aot_unpaired")


def config(loss: Any, **more: Any) -> ObjectiveConfig:
    if loss == "exo_pair":
        more.setdefault("label_smoothing", 1e-3)
    return ObjectiveConfig(loss=loss, **{"beta": 0.3, **more})


def assert_equal(objective: ObjectiveConfig, folder: Path, **more: Any) -> None:
    loss, gradient = trl_losses.gap(objective, folder, **more)
    print(f"loss {loss:.1e}, gradient {gradient:.1e}")
    assert loss < 2e-6
    assert gradient < 1e-5


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("beta", [0.05, 0.7])
def test_a_loss_is_trls(name: str, beta: float, tmp_path: Path):
    assert_equal(config(name, beta=beta), tmp_path)


@pytest.mark.parametrize("name", SMOOTHED_BY_TRL)
def test_label_smoothing_is_trls(name: str, tmp_path: Path):
    assert_equal(config(name, label_smoothing=0.2), tmp_path)


@pytest.mark.parametrize("divergence", ["forward_kl", "js", "alpha"])
@pytest.mark.parametrize("name", sorted(DIVERGENT))
def test_a_divergence_is_trls(name: str, divergence: Divergence, tmp_path: Path):
    assert_equal(config(name, divergence=divergence, divergence_alpha=0.3), tmp_path, spread=0.1)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_length_desensitisation_is_trls(name: str, tmp_path: Path):
    assert_equal(config(name, ld_alpha=0.4), tmp_path)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - SORTED - {"hinge"}))
def test_wpo_is_trls_where_no_weight_is_above_one(name: str, tmp_path: Path):
    assert_equal(config(name, wpo=True), tmp_path)


def test_wpo_with_hinge_is_trls_loss_which_trl_cannot_differentiate(tmp_path: Path):
    objective = config("hinge", wpo=True)  # TRL multiplies the output of `relu` in place
    (theirs, _), batch = trl_losses.trl_side(objective, tmp_path, 0.3, backward=False)
    assert trl_losses.our_side(objective, batch, 0.3)[0] == pytest.approx(theirs, rel=2e-6)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        trl_losses.trl_side(objective, tmp_path, 0.3)


def test_trls_wpo_has_no_bound_and_ours_has_that_of_its_authors(tmp_path: Path):
    spread = 0.05  # nearly flat distributions: about every second pair weighs more than 1
    (theirs, _), batch = trl_losses.trl_side(config("sigmoid", wpo=True), tmp_path, spread)
    policy, reference = trl_losses.model(1, spread), trl_losses.model(2, spread)
    scores, _ = trl_losses.scores_of(config("sigmoid"), policy, reference, batch)
    unbounded = (scores.wpo_chosen + scores.wpo_rejected).exp()
    assert (unbounded > 1.01).any()
    loss = PairLoss(config("sigmoid"))
    losses, _ = loss.losses(scores, loss.state0())
    assert (losses * unbounded).mean().item() == pytest.approx(theirs, rel=2e-6)
    assert trl_losses.our_side(config("sigmoid", wpo=True), batch, spread)[0] == pytest.approx(
        (losses * unbounded.clamp(max=1)).mean().item(), rel=2e-6
    )


@pytest.mark.parametrize("name", ["sigmoid", "sigmoid_norm"])
def test_trls_sigmoid_ignores_label_smoothing(name: str, tmp_path: Path):
    (theirs, _), batch = trl_losses.trl_side(config(name, label_smoothing=0.2), tmp_path, 0.3)
    assert trl_losses.our_side(config(name), batch, 0.3)[0] == pytest.approx(theirs, rel=2e-6)
    assert trl_losses.our_side(config(name, label_smoothing=0.2), batch, 0.3)[0] != pytest.approx(theirs, rel=1e-3)


def test_no_comparison_is_of_a_policy_near_its_reference(tmp_path: Path):
    for spread in (0.1, 0.3):
        _, batch = trl_losses.trl_side(config("sigmoid"), tmp_path, spread)
        policy, reference = trl_losses.model(1, spread), trl_losses.model(2, spread)
        scores, _ = trl_losses.scores_of(config("sigmoid"), policy, reference, batch)
        assert (scores.policy_chosen - scores.reference_chosen).abs().max() > 1.0
    assert (scores.wpo_chosen + scores.wpo_rejected < 0).all()


@pytest.mark.parametrize("tau", [0.05, 0.5])
def test_the_tau_of_discopop_is_trls(tau: float, tmp_path: Path):
    assert_equal(config("discopop", discopop_tau=tau), tmp_path)


def test_sft_and_the_likelihood_term_are_trls(tmp_path: Path):
    assert_equal(config("sft"), tmp_path)
    assert_equal(config("sigmoid", nll_weight=0.7), tmp_path)


def test_a_mix_is_trls(tmp_path: Path):
    assert_equal(config({"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}), tmp_path)
    assert_equal(config({"hinge": 0.5, "aot": 2.0}, label_smoothing=0.1), tmp_path)
