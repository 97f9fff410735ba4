"""Win rates with their uncertainty. The unit is the prompt; NaN is a missing verdict.

Notation: sᵢ ∈ [0, 1] is the candidate's credit on prompt i (win 1, tie ½, loss 0, soft allowed), i = 1…n.
Functions are pure: arrays and a seed in, numbers out, the same for the same input.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from tasks.core.errors import DataError

Floats = NDArray[np.float64]

NORMAL_FROM = 100  # prompts; with fewer, the mean does not count as normally distributed
RESAMPLES = 9999
FLIPS = 10_000


@dataclasses.dataclass(frozen=True)
class Interval:
    """An interval of a mean at 1 − α.

    Attributes:
        low: Lower end of the two-sided interval.
        high: Upper end of the two-sided interval.
        lower_bound: Lower end of the one-sided interval.
        interval_method: `wilson`, `normal` or `bca`.
    """

    low: float
    high: float
    lower_bound: float
    interval_method: str


@dataclasses.dataclass(frozen=True)
class WinRate(Interval):
    """A candidate's credit over prompts, with its interval.

    Attributes:
        prompts: Prompts asked about, judged or not.
        judged: Prompts with a verdict; the figures below are over these.
        coverage: judged / prompts.
        win_rate: Mean of s.
        se: Standard error sd(s, ddof 1)/√n; None for a single prompt.
        wins: Prompts with s > ½.
        ties: Prompts with s = ½.
        losses: Prompts with s < ½.
        discrete_rate: (wins + ties/2) / judged.
    """

    prompts: int
    judged: int
    coverage: float
    win_rate: float
    se: float | None
    wins: int
    ties: int
    losses: int
    discrete_rate: float


def per_prompt(prompt_ids: Sequence[str], shown_first: ArrayLike, shown_second: ArrayLike) -> dict[str, float]:
    """Average orders, then samples, within each prompt: sᵢ = mean over samples of (y_AB + y_BA)/2.

    A pair of games counts only with both orders (one order alone would carry the judge's position bias);
    a prompt without such a pair is NaN. Averaging comes first because the orders of one prompt are not
    independent: pooling them as if they were makes the standard error too small.

    Args:
        prompt_ids: The prompt of each pair of games.
        shown_first: Credit y_AB of the candidate where it was shown first; NaN where missing.
        shown_second: Credit y_BA where it was shown second; NaN where missing.

    Returns:
        Credit by prompt id, in order of first appearance.
    """
    first, second = np.asarray(shown_first, dtype=np.float64), np.asarray(shown_second, dtype=np.float64)
    if not len(prompt_ids) == first.size == second.size:
        raise ValueError(f"{len(prompt_ids)} prompt ids, {first.size} and {second.size} credits: lengths differ")

    by_prompt: dict[str, list[float]] = {}
    for prompt_id, credit in zip(prompt_ids, (first + second) / 2, strict=True):
        by_prompt.setdefault(prompt_id, []).append(float(credit))
    means = {key: [credit for credit in credits if credit == credit] for key, credits in by_prompt.items()}
    return {key: float(np.mean(credits)) if credits else float("nan") for key, credits in means.items()}


def win_rate(scores: ArrayLike, alpha: float = 0.05, seed: int = 0) -> WinRate:
    """Return mean s with standard error, interval and counts; NaN scores count only against coverage.

    Raises:
        DataError: No prompt has a verdict.
    """
    scores = np.asarray(scores, dtype=np.float64)
    judged = scores[~np.isnan(scores)]
    if judged.size == 0:
        raise DataError(
            "no prompt has a verdict, so there is no win rate", "check why the judge failed on every prompt"
        )
    if judged.min() < 0 or judged.max() > 1:
        raise ValueError("scores must lie in [0, 1]")

    wins, ties, losses = (int(count.sum()) for count in (judged > 0.5, judged == 0.5, judged < 0.5))
    return WinRate(
        **vars(interval(judged, alpha, seed)),
        prompts=scores.size,
        judged=judged.size,
        coverage=judged.size / scores.size,
        win_rate=float(judged.mean()),
        se=standard_error(judged) if judged.size > 1 else None,
        wins=wins,
        ties=ties,
        losses=losses,
        discrete_rate=(wins + ties / 2) / judged.size,
    )


def standard_error(scores: Floats) -> float:
    """Return sd(s, ddof 1)/√n."""
    return float(scores.std(ddof=1) / np.sqrt(scores.size))


def interval(scores: Floats, alpha: float = 0.05, seed: int = 0) -> Interval:
    """Return the interval that fits the scores.

    Wilson's for wins and losses without ties, and for equal scores, which have no spread to resample; the normal
    one with 100 prompts or more; else BCa.
    """
    is_hard = bool(np.isin(scores, (0.0, 1.0)).all())
    if is_hard or np.ptp(scores) == 0:
        return wilson(scores, alpha)
    if scores.size >= NORMAL_FROM:
        return normal(scores, alpha)
    return bca(scores, alpha, seed)


def wilson(scores: Floats, alpha: float) -> Interval:
    """Return Wilson's score interval for k = Σ s of n (statsmodels).

    (p̂ + z²/2n ± z·√(p̂(1−p̂)/n + z²/4n²)) / (1 + z²/n), z at α/2 for two sides and at α for the lower bound.
    """
    low, high = proportion_confint(scores.sum(), scores.size, alpha=alpha, method="wilson")
    bound, _ = proportion_confint(scores.sum(), scores.size, alpha=2 * alpha, method="wilson")
    mean = float(scores.mean())  # at 0 and 1, rounding can put an end on the wrong side of it
    return Interval(min(float(low), mean), max(float(high), mean), min(float(bound), mean), "wilson")


def normal(scores: Floats, alpha: float) -> Interval:
    """Return mean ± z·SE, cut to [0, 1]; z at 1 − α/2 for two sides and at 1 − α for the lower bound."""
    mean, se = float(scores.mean()), standard_error(scores)
    half, one_side = stats.norm.ppf(1 - alpha / 2) * se, stats.norm.ppf(1 - alpha) * se
    return Interval(max(0.0, mean - half), min(1.0, mean + half), max(0.0, mean - one_side), "normal")


def bca(scores: Floats, alpha: float, seed: int, resamples: int = RESAMPLES) -> Interval:
    """Return the bias-corrected and accelerated bootstrap interval of the mean over prompts (scipy)."""
    common: dict[str, Any] = {"n_resamples": resamples, "method": "BCa"}
    drawn = stats.bootstrap((scores,), np.mean, confidence_level=1 - alpha, rng=np.random.default_rng(seed), **common)
    again = {**common, "n_resamples": 0, "bootstrap_result": drawn}
    one_side = stats.bootstrap((scores,), np.mean, confidence_level=1 - alpha, alternative="greater", **again)
    ends = (*drawn.confidence_interval, one_side.confidence_interval.low)
    if not np.isfinite(ends).all():
        return wilson(scores, alpha)
    low, high, bound = (float(end) for end in ends)
    return Interval(low, high, bound, "bca")


def sign_flip_p(scores: ArrayLike, seed: int = 0, flips: int = FLIPS) -> float:
    """Return the one-sided p-value of "mean s > ½" by flipping the signs of s − ½ at random.

    p = (1 + #{flips with Σ ±(sᵢ − ½) ≥ Σ (sᵢ − ½)}) / (1 + flips).
    """
    scores = np.asarray(scores, dtype=np.float64)
    centred = scores[~np.isnan(scores)] - 0.5
    observed = float(centred.sum())
    rng, reached, block = np.random.default_rng(seed), 0, 1000
    for start in range(0, flips, block):
        signs = rng.integers(0, 2, size=(min(block, flips - start), centred.size), dtype=np.int8) * 2 - 1
        reached += int((signs @ centred >= observed - 1e-9).sum())  # equal sums may differ in the last bit
    return (1 + reached) / (1 + flips)


def consistency(shown_first: ArrayLike, shown_second: ArrayLike) -> float | None:
    """Return the share of pairs whose two orders give the same verdict: win, tie or loss.

    Both arrays hold the candidate's credit. None when no pair has both orders.
    """
    first, second = _both_judged(shown_first, shown_second)
    return float((np.sign(first - 0.5) == np.sign(second - 0.5)).mean()) if first.size else None


def first_position_share(shown_first: ArrayLike, shown_second: ArrayLike) -> float | None:
    """Return the mean credit of whichever answer was shown first, mean (y_AB + 1 − y_BA)/2: ½ without a bias.

    Both arrays hold the candidate's credit. None when no pair has both orders.
    """
    first, second = _both_judged(shown_first, shown_second)
    return float(((first + 1 - second) / 2).mean()) if first.size else None


def _both_judged(shown_first: ArrayLike, shown_second: ArrayLike) -> tuple[Floats, Floats]:
    first, second = np.asarray(shown_first, dtype=np.float64), np.asarray(shown_second, dtype=np.float64)
    complete = ~(np.isnan(first) | np.isnan(second))
    return first[complete], second[complete]


def smallest_detectable_win_rate(prompts: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest true win rate that `prompts` hard verdicts detect with this power, one-sided.

    ½ + (z_{1−α} + z_{power}) · ½/√n, with the standard deviation of a hard verdict at its largest, ½; at most 1.
    """
    z = stats.norm.ppf(1 - alpha) + stats.norm.ppf(power)
    return min(1.0, float(0.5 + z * 0.5 / math.sqrt(prompts)))
