"""Win rates within slices, corrected for their number: one of twenty equal slices must not look special by chance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tasks.estimation.bounds import ALPHA, interval, p_above


@dataclasses.dataclass(frozen=True)
class SliceRate:
    """The win rate within one slice.

    Attributes:
        prompts: Its prompts, judged or not.
        win_rate: Mean credit of those with a verdict.
        low: Lower end of its interval; the intervals of all slices hold together at 1 − α (Bonferroni).
        high: Upper end.
        p_value: Two-sided p-value of "the win rate is not one half", adjusted for all slices by Holm (1979).
    """

    prompts: int
    win_rate: float
    low: float
    high: float
    p_value: float


def slice_rates(credits: Mapping[str, Sequence[float]], alpha: float = ALPHA) -> dict[str, SliceRate]:
    """Return the win rate of each slice that has a verdict, by name; a NaN is a missing verdict."""
    from statsmodels.stats.multitest import multipletests

    by_slice = {name: np.asarray(values, dtype=np.float64) for name, values in sorted(credits.items())}
    judged = {name: values[~np.isnan(values)] for name, values in by_slice.items()}
    judged = {name: values for name, values in judged.items() if values.size}
    if not judged:
        return {}

    tails = [min(p_above(values, 0.5), p_above(1 - values, 0.5)) for values in judged.values()]
    p_values = multipletests(np.minimum(1, 2 * np.array(tails)), method="holm")[1]
    rates = {}
    for (name, values), p_value in zip(judged.items(), p_values, strict=True):
        ends = interval(values, alpha / len(judged))
        rates[name] = SliceRate(by_slice[name].size, float(values.mean()), ends.low, ends.high, float(p_value))
    return rates
