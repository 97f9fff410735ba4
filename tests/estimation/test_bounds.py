"""The bound against arithmetic by hand, against scipy and statsmodels, and against a bootstrap that is drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from tasks.estimation.bounds import METHOD, interval, lower_bound, p_above, upper_bound


def verdicts(wins: int, ties: int = 0, losses: int = 0) -> list[float]:
    return [1.0] * wins + [0.5] * ties + [0.0] * losses


@pytest.mark.parametrize("n", [1, 4, 20, 805])
def test_the_bound_of_wins_alone_is_the_nth_root_of_alpha(n):
    # all n are won with probability pⁿ, which is α at p = α^(1/n): 0.05^(1/20) = 0.860892
    assert lower_bound([1.0] * n, 0.05) == pytest.approx(0.05 ** (1 / n), abs=1e-9)
    assert upper_bound([0.0] * n, 0.05) == pytest.approx(1 - 0.05 ** (1 / n), abs=1e-9)


def test_the_bound_of_80_wins_in_100_is_the_rate_at_which_they_come_about_in_5_percent():
    bound = lower_bound(verdicts(80, losses=20), 0.05)
    tail = math.fsum(math.comb(100, k) * bound**k * (1 - bound) ** (100 - k) for k in range(80, 101))
    assert bound == pytest.approx(0.722800, abs=1e-6)
    assert tail == pytest.approx(0.05, abs=1e-10)


@pytest.mark.parametrize(("wins", "n"), [(0, 5), (3, 7), (60, 99), (60, 100), (450, 805), (803, 805), (2600, 5000)])
def test_wins_and_losses_get_the_interval_of_clopper_and_pearson(wins, n):
    result = interval(verdicts(wins, losses=n - wins))
    low, high = proportion_confint(wins, n, alpha=0.05, method="beta")
    assert (result.low, result.high) == pytest.approx((low, high), abs=1e-9)
    assert result.lower_bound == pytest.approx(proportion_confint(wins, n, alpha=0.1, method="beta")[0], abs=1e-9)
    assert result.interval_method == METHOD == "dirichlet"


def test_two_credits_have_the_bound_of_a_triangle():
    # the weights of the two and of the added 0 are uniform on a triangle, of which credits x ≤ y and b ≤ x cut off
    # b²/(xy): b = √(α·x·y) = √(0.05 · ½ · 1) = 0.158114
    assert lower_bound([0.5, 1.0], 0.05) == pytest.approx(math.sqrt(0.025), abs=1e-9)


def test_equal_credits_have_a_bound_below_them_though_they_have_no_spread():
    # c · α^(1/n): ½ · 0.05^(1/50) = 0.470922
    assert lower_bound([0.5] * 50, 0.05) == pytest.approx(0.5 * 0.05 ** (1 / 50), abs=1e-9)
    assert upper_bound([0.5] * 50, 0.05) == pytest.approx(1 - 0.5 * 0.05 ** (1 / 50), abs=1e-9)


@pytest.mark.parametrize(
    ("won", "ties", "lost", "p"),
    [
        (12, 38, 0, 2**-12),
        (4, 196, 0, 2**-4),
        (4, 0, 0, 2**-4),
        (6, 193, 1, (7 + 1) / 2**7),  # 6 or 7 heads of 7
        (10, 790, 2, (1 + 12 + 66) / 2**12),  # 12, 11 or 10 heads of 12
    ],
)
def test_against_one_half_the_test_is_the_exact_sign_test_on_the_decided_prompts(won, ties, lost, p):
    credits = verdicts(won, ties, lost)
    assert p_above(credits, 0.5) == pytest.approx(p, abs=1e-10)
    assert lower_bound(credits, p) == pytest.approx(0.5, abs=1e-8)


def test_the_sign_test_holds_at_every_n_and_share_of_ties():
    rng = np.random.default_rng(0)
    for n in (20, 50, 99, 100, 101, 400, 805):
        for ties in (0.0, 0.3, 0.6, 0.9):
            won, tied, lost = rng.multinomial(n, [0.55 * (1 - ties), ties, 0.45 * (1 - ties)])
            exact = stats.binomtest(int(won), int(won + lost), alternative="greater").pvalue if won + lost else 1.0
            assert p_above(verdicts(won, tied, lost), 0.5) == pytest.approx(exact, abs=1e-9)


def test_twelve_wins_and_no_loss_among_38_ties_are_a_clear_win():
    assert lower_bound(verdicts(12, 38), 0.0304) > 0.54


def test_a_hundredth_prompt_changes_the_bound_no_more_than_the_ninety_ninth():
    bounds = [
        lower_bound(verdicts(round(n * 0.6), ties=n - round(n * 0.6) - n // 5, losses=n // 5), 0.05)
        for n in (80, 100, 120)
    ]
    assert bounds[0] < bounds[1] < bounds[2]
    steps = [lower_bound(verdicts(59, 20, 20), 0.05), lower_bound(verdicts(60, 20, 20), 0.05)]
    assert 0 < steps[1] - steps[0] < 0.006


@pytest.mark.parametrize("n", [5, 40, 300])
def test_the_bound_is_the_quantile_of_a_bootstrap_that_is_drawn(n):
    rng = np.random.default_rng(n)
    credits = rng.beta(2, 1, size=n).round(6)
    weights = rng.exponential(size=(40_000, n + 1))
    means = weights[:, 1:] @ credits / weights.sum(axis=1)
    for alpha in (0.025, 0.05):
        assert (means <= lower_bound(credits, alpha)).mean() == pytest.approx(alpha, abs=0.004)


def test_level_and_bound_say_the_same():
    credits = np.random.default_rng(1).beta(3, 2, size=60)
    for alpha in (0.2, 0.05, 1e-3, 1e-6):
        assert p_above(credits, lower_bound(credits, alpha)) == pytest.approx(alpha, rel=1e-5)
    assert (p_above(credits, 0.0), p_above(credits, 1.0)) == (0.0, 1.0)
    assert p_above([0.0, 0.0], 0.0) == 1.0
    assert p_above(credits, 0.7) > 0.5  # above the mean: the other side of the pole


@pytest.mark.parametrize("n", [1, 2, 3, 20, 300])
@pytest.mark.parametrize("alpha", [0.5, 0.25, 0.03, 1e-5])
def test_the_p_value_rises_with_the_mean_and_meets_alpha_at_the_bound(n, alpha):
    rng = np.random.default_rng(n)
    for credits in (rng.random(n), rng.beta(0.1, 0.1, n), rng.choice([0, 0.25, 0.5, 0.75, 1], n), rng.beta(50, 50, n)):
        steps = np.diff([p_above(credits, mean) for mean in np.linspace(0.001, 0.999, 15)])
        assert steps.min() > -1e-8
        bound = lower_bound(credits, alpha)
        assert bound == 0 or p_above(credits, bound) == pytest.approx(alpha, abs=1e-8)


def test_the_bounds_of_the_opponent_mirror_those_of_the_candidate():
    credits = np.random.default_rng(2).choice([0.0, 0.25, 0.5, 0.75, 1.0], size=80)
    ours, theirs = interval(credits), interval(1 - credits)
    assert (ours.low, ours.high) == pytest.approx((1 - theirs.high, 1 - theirs.low), abs=1e-9)
    assert ours.low < ours.lower_bound < credits.mean() < ours.high  # one side at 5 % lies inside two at 2.5 %


def test_the_bound_does_not_depend_on_order_or_on_digits_that_files_do_not_hold():
    credits = np.random.default_rng(3).random(50)
    assert lower_bound(credits, 0.05) == lower_bound(credits[::-1], 0.05) == lower_bound(credits.round(6), 0.05)


@pytest.mark.parametrize("credits", [[], [0.5, float("nan")], [1.1], [-0.1]])
def test_credits_that_are_none_are_refused(credits):
    with pytest.raises(ValueError, match=r"credits must lie in \[0, 1\]"):
        interval(credits)


@pytest.mark.parametrize(("n", "alpha"), [(20, 0.05), (200, 0.05), (200, 0.0304)])
def test_left_skewed_credits_do_not_raise_the_error(n, alpha):
    # nine prompts at 0.556 to one at 0, mean 0.5004; the normal bound erred in 0.068 at n = 200
    credits, share, truth = (0.556, 0.0), 0.9, 0.5004
    error = math.fsum(
        stats.binom.pmf(k, n, share)
        for k in range(n + 1)
        if p_above([credits[0]] * k + [credits[1]] * (n - k), truth) < alpha
    )
    assert error <= alpha
