"""The length-controlled win rate: the effect of length taken out. It stands beside the raw rate, never in its place.

The form is that of length-controlled AlpacaEval (arXiv:2404.04475), fitted on our own prompts:
P(sᵢ = 1) = σ(θ + φ·tanh(Δᵢ)), Δᵢ = (length of candidate − length of opponent) / sd of those differences.
At equal lengths Δ = 0, so the controlled rate is σ(θ).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

Floats = NDArray[np.float64]

FEWEST_PROMPTS = 50
FARTHEST_RAW_RATE = 0.25  # from one half: beyond it, one side seldom wins, and rates were up to 9 points off
RESAMPLES = 1000
_RIDGE = 1e-3  # L2 penalty on θ and φ beside a sum over prompts: keeps separable data finite, else negligible


@dataclasses.dataclass(frozen=True)
class LengthControlled:
    """The controlled win rate in [0, 1] with its bootstrap interval, and φ, the effect of tanh(Δ)."""

    win_rate: float
    low: float
    high: float
    length_effect: float


@dataclasses.dataclass(frozen=True)
class Refused:
    """Why no controlled win rate is given."""

    refused: str


def length_controlled(
    scores: ArrayLike,
    length_differences: ArrayLike,
    alpha: float = 0.05,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> LengthControlled | Refused:
    """Fit θ, φ by soft-label logistic loss and return σ(θ) with a percentile bootstrap over prompts, refitted.

    Args:
        scores: Credit sᵢ in [0, 1], NaN where missing. [n]
        length_differences: Candidate's length minus the opponent's. [n]
        alpha: The interval is at 1 − α.
        seed: Of the bootstrap.
        resamples: Bootstrap resamples.
    """
    credit, difference = np.asarray(scores, dtype=np.float64), np.asarray(length_differences, dtype=np.float64)
    judged = ~np.isnan(credit)
    credit, difference = credit[judged], difference[judged]
    if reason := _why_not(credit, difference):
        return Refused(reason)

    features = np.column_stack([np.ones(credit.size), np.tanh(difference / difference.std(ddof=1))])
    theta, phi = fit_logistic(features, credit, np.ones((1, credit.size)))[0]

    # the bootstrap: a resample of the prompts is how often each prompt was drawn
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(credit.size, np.full(credit.size, 1 / credit.size), size=resamples).astype(np.float64)
    rates = expit(fit_logistic(features, credit, counts)[:, 0])
    low, high = np.quantile(rates, [alpha / 2, 1 - alpha / 2])
    return LengthControlled(float(expit(theta)), float(low), float(high), float(phi))


def _why_not(credit: Floats, difference: Floats) -> str | None:
    """Return why a fit would be meaningless; None where it is not."""
    if credit.size < FEWEST_PROMPTS:
        return f"{credit.size} judged prompts; it needs {FEWEST_PROMPTS}"
    if abs(credit.mean() - 0.5) > FARTHEST_RAW_RATE:
        return f"the raw win rate {credit.mean():.3f} is more than {FARTHEST_RAW_RATE} away from one half"
    if np.ptp(difference) == 0:
        return "the lengths differ by the same amount on every prompt"
    return None


def fit_logistic(features: Floats, labels: Floats, weights: Floats) -> Floats:
    """Minimise Σ wᵢ·[−sᵢ log σ(zᵢ) − (1−sᵢ) log(1−σ(zᵢ))], z = X·b, for many weightings at once.

    Newton's method, each step clipped to [-1, 1].

    Args:
        features: X, a column a coefficient. [n, k]
        labels: s in [0, 1]. [n]
        weights: w ≥ 0, a row a fit. [fits, n]

    Returns:
        The coefficients b of each fit. [fits, k]
    """
    coefficients = np.zeros((weights.shape[0], features.shape[1]))
    ridge = _RIDGE * np.eye(features.shape[1])

    for _ in range(60):
        p = expit(coefficients @ features.T)
        gradient = (weights * (p - labels)) @ features + _RIDGE * coefficients
        hessian = np.einsum("fn,ni,nj->fij", weights * p * (1 - p), features, features, optimize=True) + ridge

        step = np.clip(np.linalg.solve(hessian, gradient[..., None])[..., 0], -1.0, 1.0)
        coefficients -= step
        if np.abs(step).max() < 1e-9:
            break
    return coefficients
