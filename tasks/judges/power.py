"""What a number of prompts can show, and what looking more than once costs. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping

from scipy import stats
from statsmodels.stats.multitest import multipletests


def smallest_detectable_win_rate(prompts: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest true win rate that `prompts` hard verdicts show with this power, one-sided.

    ½ + (z_{1−α} + z_{power}) · ½/√n, with the standard deviation of a hard verdict at its largest, ½; at most 1.
    """
    z = stats.norm.ppf(1 - alpha) + stats.norm.ppf(power)
    return min(1.0, float(0.5 + z * 0.5 / math.sqrt(prompts)))


def prompts_needed(win_rate: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Return the fewest hard verdicts that show a true `win_rate` above one half with this power, one-sided.

    n = ((z_{1−α}·½ + z_{power}·√(p(1−p))) / (p − ½))², rounded up: spread ½ where nothing is to be found, and
    √(p(1−p)) where p is true.
    """
    if not 0.5 < win_rate < 1:
        raise ValueError("win_rate must lie between 0.5 and 1")
    spread = float(stats.norm.ppf(1 - alpha) * 0.5 + stats.norm.ppf(power) * math.sqrt(win_rate * (1 - win_rate)))
    return math.ceil((spread / (win_rate - 0.5)) ** 2)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return Holm's adjusted p-values for candidates tested together (statsmodels).

    Sorted p₍₁₎ ≤ … ≤ p₍ₘ₎: p̃₍ⱼ₎ = max over i ≤ j of min(1, (m − i + 1)·p₍ᵢ₎).
    """
    if not p_values:
        return {}
    adjusted = multipletests(list(p_values.values()), method="holm")[1]
    return {name: float(value) for name, value in zip(p_values, adjusted, strict=True)}
