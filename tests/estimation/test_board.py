"""The board: Bradley-Terry strengths against closed forms, against scipy, and by their order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from tasks.estimation.board import Duel, board, strengths

DUELS = [Duel("p", "b", {}), Duel("c", "b", {}), Duel("p", "c", {})]


def test_the_strengths_of_two_are_the_odds_of_their_credits():
    # 150 of 200 points: odds 3
    fit = strengths(DUELS[:1], np.array([150.0]), np.array([200.0]))
    assert fit["p"] / fit["b"] == pytest.approx(3, abs=1e-9)


def test_the_strengths_of_three_are_the_fit_of_a_logistic_loss():
    won, met = np.array([150.0, 130.5, 112.25]), np.array([200.0, 200.0, 200.0])

    def loss(theta):
        log = dict(zip("bcp", theta, strict=True))
        gaps = np.array([log[duel.one] - log[duel.other] for duel in DUELS])
        return won @ np.logaddexp(0, -gaps) + (met - won) @ np.logaddexp(0, gaps) + 1e-10 * theta @ theta

    def slope(theta):
        log = dict(zip("bcp", theta, strict=True))
        gradient = dict.fromkeys("bcp", 0.0)
        for duel, wins, of in zip(DUELS, won, met, strict=True):
            miss = of / (1 + math.exp(log[duel.other] - log[duel.one])) - wins
            gradient[duel.one] += miss
            gradient[duel.other] -= miss
        return np.array([gradient[name] for name in "bcp"]) + 2e-10 * theta

    found = minimize(loss, np.zeros(3), jac=slope, method="BFGS", options={"gtol": 1e-9}).x
    fit = strengths(DUELS, won, met)
    ours = [math.log(fit[name] / fit["b"]) for name in "bcp"]
    assert ours == pytest.approx(list(found - found[0]), abs=1e-9)


def test_the_board_gives_elo_points_above_the_anchor():
    # 74 of 99 and the added tie: 74.5 to 25.5, odds 2.921569; 400·log₁₀ of it = 186.25
    credits = {f"p{i}": float(i < 74) for i in range(99)}
    first, last = board([Duel("policy", "base", credits)], "base", resamples=200)
    assert (first.name, last.name) == ("policy", "base")
    assert first.rating == pytest.approx(400 * math.log10(74.5 / 25.5))
    assert first.win_rate == pytest.approx(0.745)
    assert 0 < first.low < first.rating < first.high
    assert (last.rating, last.low, last.high, last.win_rate) == (0, 0, 0, 0.5)


def test_a_model_that_never_lost_has_a_finite_rating():
    (first, _) = board([Duel("policy", "base", dict.fromkeys("abcdef", 1.0))], "base", resamples=50)
    assert first.rating == pytest.approx(400 * math.log10(13))  # 6.5 to 0.5


def test_models_that_met_only_the_base_are_ordered_through_it():
    rng = np.random.default_rng(0)
    duels = [
        Duel(name, "base", {f"q{i}": float(credit) for i, credit in enumerate(rng.random(150) < rate)})
        for name, rate in (("one", 0.65), ("two", 0.85))
    ]
    rows = board(duels, "base", resamples=50)
    assert [row.name for row in rows] == ["two", "one", "base"]
    assert rows == board(duels, "base", resamples=50)
