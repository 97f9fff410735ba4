"""Win rates with their uncertainty. The unit is the prompt; NaN is a missing verdict.

Notation: sᵢ ∈ [0, 1] is the candidate's credit on prompt i (win 1, tie ½, loss 0, soft allowed), i = 1…n.
Functions are pure: arrays and a seed in, numbers out, the same for the same input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tasks.core.errors import DataError
from tasks.estimation.bounds import ALPHA, Floats, Interval, interval

FLIPS = 10_000


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


def win_rate(scores: ArrayLike, alpha: float = ALPHA) -> WinRate:
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
        **vars(interval(judged, alpha)),
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
