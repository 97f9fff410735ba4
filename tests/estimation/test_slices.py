"""Slices are corrected for their number."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.estimation.bounds import interval
from tasks.estimation.slices import slice_rates

NAN = float("nan")


def test_the_p_values_are_those_of_holm_by_hand():
    # two-sided sign tests: a 2·2⁻¹⁰, b 2·2⁻⁶, c 1; Holm: 3 times the smallest, 2 times the next, 1 times the last
    rates = slice_rates({"a": [1.0] * 10, "b": [0.0] * 6 + [0.5] * 4, "c": [1.0, 0.0]})
    assert [rates[name].p_value for name in "abc"] == pytest.approx([6 / 2**10, 4 / 2**6, 1.0], abs=1e-9)


def test_the_intervals_of_all_slices_hold_together():
    credits = [1.0] * 12 + [0.0] * 8
    alone, among = slice_rates({"a": credits})["a"], slice_rates(dict.fromkeys("abcde", credits))["c"]
    assert (alone.low, alone.high) == (interval(credits).low, interval(credits).high)
    assert (among.low, among.high) == (interval(credits, 0.01).low, interval(credits, 0.01).high)


def test_a_slice_without_a_verdict_is_left_out_and_a_missing_one_counts_as_a_prompt():
    rates = slice_rates({"a": [1.0, NAN], "b": [NAN]})
    assert list(rates) == ["a"]
    assert (rates["a"].prompts, rates["a"].win_rate) == (2, 1.0)
    assert slice_rates({"b": [NAN]}) == {}


@pytest.mark.nightly
def test_one_of_twenty_equal_slices_looks_special_in_at_most_five_percent_of_runs():
    rng = np.random.default_rng(0)
    special = [
        min(rate.p_value for rate in slice_rates({str(i): values for i, values in enumerate(draws)}).values()) < 0.05
        for draws in rng.choice([0.0, 1.0], size=(60, 20, 30)).tolist()
    ]
    assert np.mean(special) <= 0.1
