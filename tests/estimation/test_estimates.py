"""The statistics, against arithmetic by hand and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize

from tasks.core.errors import DataError
from tasks.estimation.estimates import (
    consistency,
    first_position_share,
    per_prompt,
    sign_flip_p,
    win_rate,
)
from tasks.estimation.length_control import LengthControlled, Refused, fit_logistic, length_controlled

NAN = float("nan")


def test_orders_then_samples_are_averaged_within_the_prompt():
    scores = per_prompt(["a", "a", "b"], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0])
    assert scores == {"a": 0.75, "b": 0.0}  # a: (1 + ½)/2


def test_a_pair_without_both_orders_is_missing_and_never_a_tie():
    scores = per_prompt(["a", "b", "b"], [1.0, 1.0, NAN], [NAN, 1.0, 0.0])
    assert math.isnan(scores["a"])
    assert scores["b"] == 1.0  # the sample that has both orders alone


def test_a_missing_verdict_changes_coverage_and_nothing_else():
    with_missing, without = win_rate([1.0, 0.0, 1.0, NAN]), win_rate([1.0, 0.0, 1.0])
    assert (with_missing.prompts, with_missing.judged, with_missing.coverage) == (4, 3, 0.75)
    assert (with_missing.wins, with_missing.ties, with_missing.losses) == (2, 0, 1)
    assert (with_missing.win_rate, with_missing.se) == (without.win_rate, without.se)
    assert (with_missing.low, with_missing.high) == (without.low, without.high)


def test_no_verdict_at_all_is_refused():
    with pytest.raises(DataError, match="no prompt has a verdict"):
        win_rate([NAN, NAN])


def test_rate_error_and_counts_are_those_computed_by_hand():
    result = win_rate([1.0, 1.0, 0.5, 0.0])
    assert result.win_rate == 0.625
    # deviations 3/8, 3/8, -1/8, -5/8: sum of squares 44/64; sd = √(0.6875/3); se = sd/2
    assert result.se == pytest.approx(math.sqrt(0.6875 / 3) / 2)
    assert (result.wins, result.ties, result.losses, result.discrete_rate) == (2, 1, 1, 0.625)


@pytest.mark.parametrize("n", [40, 150])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(n):
    rng, truth, covered, above = np.random.default_rng(0), 0.6, 0, 0
    for _ in range(200):
        found = win_rate(rng.choice([0.0, 0.5, 1.0], p=[0.3, 0.2, 0.5], size=n))
        covered += found.low <= truth <= found.high
        above += found.lower_bound > truth
    assert 0.92 <= covered / 200 <= 0.99
    assert above / 200 <= 0.08


def test_one_prompt_has_no_standard_error():
    assert win_rate([1.0]).se is None


def test_pooling_swapped_games_understates_the_error():
    rng = np.random.default_rng(0)
    first = (rng.random(400) < 0.6).astype(float)
    second = np.where(rng.random(400) < 0.8, first, 1 - first)  # the other order mostly agrees
    pooled = np.concatenate([first, second])
    honest = win_rate((first + second) / 2).se
    assert honest is not None
    assert pooled.std(ddof=1) / math.sqrt(pooled.size) < 0.9 * honest


def test_the_sign_flip_p_value_is_that_of_all_flips():
    # five wins of five: only one flip in 2⁵ = 32 reaches the sum
    assert sign_flip_p([1.0] * 5, flips=20_000) == pytest.approx(1 / 32, abs=0.005)
    assert sign_flip_p([0.5] * 5) == 1.0  # nothing to flip
    assert sign_flip_p([1.0, 0.0] * 50) > 0.4
    assert sign_flip_p([1.0] * 60, flips=999) == pytest.approx(1 / 1000)


def test_the_sign_flip_test_errs_as_often_as_its_level_says():
    rng = np.random.default_rng(1)
    found = [sign_flip_p(rng.choice([0.0, 0.5, 1.0], size=60), seed, flips=499) < 0.05 for seed in range(300)]
    assert 0.02 <= np.mean(found) <= 0.08


def test_consistency_and_first_position_share_show_a_biased_judge():
    assert consistency([1.0, 1.0, 0.0, 0.5], [1.0, 0.0, 0.0, 1.0]) == 0.5
    assert first_position_share([1.0, 1.0], [0.0, 0.0]) == 1.0  # whoever is first wins
    assert first_position_share([1.0, 0.0], [1.0, 0.0]) == 0.5
    assert first_position_share([NAN], [1.0]) is None
    assert consistency([], []) is None


def _length_biased(n: int, theta: float, phi: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    difference = rng.normal(30, 20, size=n)
    z = theta + phi * np.tanh(difference / difference.std(ddof=1))
    return (rng.random(n) < 1 / (1 + np.exp(-z))).astype(float), difference


def test_a_judge_that_likes_only_length_is_controlled_to_one_half():
    scores, difference = _length_biased(2000, theta=0.0, phi=1.2)
    result = length_controlled(scores, difference, resamples=200)
    assert isinstance(result, LengthControlled)
    assert scores.mean() > 0.68
    assert result.low < 0.5 < result.high
    assert result.length_effect == pytest.approx(1.2, abs=0.25)


def test_the_fit_is_the_minimum_that_scipy_finds():
    rng = np.random.default_rng(3)
    features = np.column_stack([np.ones(80), np.tanh(rng.normal(size=80))])
    labels = rng.choice([0.0, 0.25, 0.5, 1.0], size=80)

    def loss(b):
        z = features @ b
        return np.sum(np.logaddexp(0, z) - labels * z)

    ours = fit_logistic(features, labels, np.ones((1, 80)))[0]
    assert ours == pytest.approx(optimize.minimize(loss, np.zeros(2)).x, abs=1e-3)


def test_separable_lengths_do_not_blow_up():
    difference = np.array([-1.0] * 30 + [1.0] * 30)
    result = length_controlled((difference > 0).astype(float), difference, resamples=50)
    assert isinstance(result, LengthControlled)
    assert result.win_rate == pytest.approx(0.5, abs=0.01)


def test_length_differences_of_equal_sign_are_refused_when_they_have_no_spread():
    assert isinstance(length_controlled([0.0, 1.0] * 30, [5.0] * 60), Refused)


def test_length_control_is_refused_on_few_prompts_and_on_lopsided_results():
    scores, difference = _length_biased(49, 0, 0)
    few, lopsided = length_controlled(scores, difference), length_controlled([1.0] * 58 + [0.0] * 2, np.arange(60.0))
    assert isinstance(few, Refused)
    assert "needs 50" in few.refused
    assert isinstance(lopsided, Refused)
    assert "0.967" in lopsided.refused


@pytest.mark.parametrize(("wins", "is_refused"), [(75, False), (76, True), (25, False), (24, True)])
def test_length_control_is_refused_beyond_25_points_from_one_half(wins, is_refused):
    result = length_controlled([1.0] * wins + [0.0] * (100 - wins), np.arange(100.0) % 7, resamples=20)
    assert isinstance(result, Refused) == is_refused


def test_missing_verdicts_leave_the_length_controlled_rate_alone():
    scores, difference = _length_biased(120, 0.3, 0.5)
    holed = np.concatenate([scores, [NAN] * 5])
    longer = np.concatenate([difference, [1e6] * 5])
    assert length_controlled(holed, longer, resamples=50) == length_controlled(scores, difference, resamples=50)
