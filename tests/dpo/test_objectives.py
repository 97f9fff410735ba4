"""The objective, its metrics and its regulariser, with the arithmetic shown."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.dpo.metrics import PairSums
from tasks.dpo.objectives import accuracy, log_ratio_margin, negative_log_likelihood, sigmoid


def tensor(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_the_margin_is_the_difference_of_the_two_log_ratios():
    # chosen: -3 - (-5) = 2; rejected: -7 - (-6) = -1; margin 2 - (-1) = 3
    assert log_ratio_margin(tensor(-3), tensor(-7), tensor(-5), tensor(-6)).item() == 3.0


def test_a_margin_of_zero_costs_ln_2_for_every_beta():
    for beta in (0.01, 0.1, 5.0):
        assert sigmoid(tensor(0.0), beta).item() == pytest.approx(math.log(2), abs=1e-12)


def test_the_loss_of_a_margin_by_hand():
    # β h = 0.1 · 3 = 0.3; σ(0.3) = 1/(1 + e^-0.3) = 0.574443; -ln 0.574443 = 0.554355
    assert sigmoid(tensor(3.0), 0.1).item() == pytest.approx(0.554355, abs=1e-6)
    # a wrong order costs more: -ln σ(-0.3) = 0.3 + 0.554355
    assert sigmoid(tensor(-3.0), 0.1).item() == pytest.approx(0.854355, abs=1e-6)


def test_label_smoothing_mixes_the_loss_of_both_orders():
    # 0.9 · 0.554355 + 0.1 · 0.854355 = 0.584355
    assert sigmoid(tensor(3.0), 0.1, label_smoothing=0.1).item() == pytest.approx(0.584355, abs=1e-6)


def test_label_smoothing_stops_pulling_where_the_odds_are_those_of_the_labels():
    # the minimum is at σ(β h) = 1 - ε: with ε = 0.2, β h = ln(0.8 / 0.2) = ln 4
    margin = tensor(math.log(4)).requires_grad_()
    sigmoid(margin, 1.0, label_smoothing=0.2).sum().backward()
    assert margin.grad is not None
    assert margin.grad.item() == pytest.approx(0.0, abs=1e-12)


def test_the_gradient_is_minus_beta_times_the_weight_of_eq_7():
    # d/dh -log σ(β h) = -β σ(-β h) = -0.1 · σ(-0.3) = -0.1 · 0.425557
    margin = tensor(3.0).requires_grad_()
    sigmoid(margin, 0.1).sum().backward()
    assert margin.grad is not None
    assert margin.grad.item() == pytest.approx(-0.0425557, abs=1e-7)


def test_huge_margins_stay_finite_numbers():
    assert torch.isfinite(sigmoid(tensor(-1e6, 1e6), 1.0, label_smoothing=0.1)).all()


def test_the_likelihood_term_is_the_sum_over_chosen_tokens():
    assert negative_log_likelihood(tensor(-1.0, -2.5, -0.5)).item() == 4.0


def test_a_tie_counts_a_half_and_noise_is_a_tie():
    assert accuracy(tensor(2.0, -2.0, 0.0, 5e-5, -5e-5, 2e-4)).tolist() == [1.0, 0.0, 0.5, 0.5, 0.5, 1.0]


def test_metrics_are_means_over_pairs_however_they_were_batched():
    # margins 3 and -1 at β 0.1: rewards' margins 0.3 and -0.1, mean 0.1; accuracy ½
    policy, reference = (tensor(-3, -4), tensor(-7, -6)), (tensor(-5, -5), tensor(-6, -8))
    losses = sigmoid(log_ratio_margin(*policy, *reference), 0.1)
    whole = PairSums.of(losses, policy, reference, 0.1)
    one, other = (
        PairSums.of(losses[i : i + 1], *((a[i : i + 1], b[i : i + 1]) for a, b in (policy, reference)), 0.1)
        for i in (0, 1)
    )
    means = whole.means()
    assert means == (one + other).means()
    assert means["margin"] == pytest.approx(0.1)
    assert means["accuracy"] == 0.5
    assert means["ranking_accuracy"] == 1.0
    # log-ratios of chosen: 2 and 1, mean reward 0.15; of rejected: -1 and 2, mean reward 0.05
    assert (means["reward_chosen"], means["reward_rejected"]) == (pytest.approx(0.15), pytest.approx(0.05))
    assert (means["logp_chosen"], means["logp_rejected"]) == (-3.5, -6.5)


def test_sums_over_no_pairs_are_zero_and_divide_by_nothing():
    assert set(PairSums.zero().means().values()) == {0.0}
