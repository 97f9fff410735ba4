"""What a look can show: exact, and the gate's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tasks.estimation.bounds import p_above
from tasks.estimation.power import describe_power, prompts_needed, smallest_detectable_win_rate, spent_alpha


def test_the_levels_of_all_looks_sum_to_alpha():
    assert spent_alpha(0.05, 1) == pytest.approx(0.0303964, abs=1e-7)  # 0.05 · 6 / π²
    assert spent_alpha(0.05, 2) == pytest.approx(0.0303964 / 4, abs=1e-7)
    assert math.fsum(spent_alpha(0.05, k) for k in range(1, 100_000)) == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize(("look", "rate"), [(1, 59.7), (5, 63.6)])
def test_200_prompts_show_the_gate_a_rate_that_grows_with_the_looks(look, rate):
    # near (z_α + z_0.8)·½/√200 above one half: 59.6 % at look 1 (z 1.875), 63.7 % at look 5 (z 3.031)
    assert round(100 * smallest_detectable_win_rate(200, spent_alpha(0.05, look)), 1) == rate


@pytest.mark.parametrize(("n", "rate"), [(100, 62.4), (200, 58.8), (500, 55.6), (805, 54.4)])
def test_at_one_look_and_the_whole_level_it_is_near_the_normal_approximation(n, rate):
    assert 100 * smallest_detectable_win_rate(n) == pytest.approx(rate, abs=0.9)


@pytest.mark.parametrize("n", [50, 99, 100, 229])
def test_the_power_that_is_told_is_that_of_the_gate_s_test(n):
    level = spent_alpha(0.05, 1)
    rate = smallest_detectable_win_rate(n, level)
    power = math.fsum(
        stats.binom.pmf(wins, n, rate)
        for wins in range(n + 1)
        if p_above([1.0] * wins + [0.0] * (n - wins), 0.5) < level
    )
    assert power == pytest.approx(0.8, abs=1e-6)


def test_a_margin_is_part_of_what_must_be_shown():
    assert smallest_detectable_win_rate(200, 0.03, 0.52) > smallest_detectable_win_rate(200, 0.03) + 0.015


def test_wins_alone_of_too_few_prompts_show_nothing():
    assert smallest_detectable_win_rate(4) == 1.0  # ½⁴ = 0.0625


def test_about_618_prompts_show_55_percent():
    # (1.644854 + 0.841621)² · 0.2475 / 0.0025 = 612.1; with the sample's sd (n − 1 = 399): 613.6
    credits = np.array([1.0] * 220 + [0.0] * 180)
    assert prompts_needed(credits, 0.05) == math.ceil((1.6448536 + 0.8416212) ** 2 * 0.2475 * 400 / 399 / 0.0025)


def test_no_number_of_prompts_shows_what_is_not_there():
    assert prompts_needed([1.0, 0.0], 0.05) is None
    assert prompts_needed([0.6] * 50, 0.05) is None


def test_the_sentence_tells_the_gate_s_own_chances(tmp_path):
    params = tmp_path / "params.yaml"
    assert "59.7 % at look 1, 61.6 % at look 2, 63.6 % at look 5" in describe_power(200, params)
    params.write_text("register: {gate: {alpha: 0.01}}\n")
    assert "alpha 0.01 over all looks" in describe_power(200, params)
    params.write_text("register: {gate: {min_prompts: 250}}\n")
    assert describe_power(200, params).endswith("; a first version needs 250 prompts")
    assert "needs" not in describe_power(250, params)
    assert describe_power(200, params) != describe_power(200, tmp_path / "none.yaml")
    params.write_text("register: {gate: {alpha: much}}\n")  # `register` refuses it; this sentence need not
    assert "alpha 0.05" in describe_power(200, params)
