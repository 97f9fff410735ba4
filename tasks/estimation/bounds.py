"""Interval and lower bound of a mean credit: the one function behind every bound that is shown or decides.

The bound is that of a bootstrap over prompts with random weights (Rubin 1981), to which one prompt with credit 0 is
added, the worst that a further prompt could be (Gaffke 2005; Learned-Miller and Thomas 2020, arXiv:1905.06208):
with credits s₁…sₙ, s₀ = 0 and weights D₀…Dₙ from Dirichlet(1, …, 1), it is the α-quantile of Σ Dᵢsᵢ.

- For wins and losses it is the bound of Clopper and Pearson (1934).
- With ties, it lies above one half exactly where the sign test on the decided prompts rejects at α.
- For soft credits it needs no normal distribution, so it holds its level for skewed ones and few prompts.

The distribution is computed by numerical integration, not drawn: there is no seed and no resampling error.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

ALPHA = 0.05  # intervals that are shown are at 1 - ALPHA, lower bounds one-sided at 1 - ALPHA
METHOD = "dirichlet"
_DIGITS = 6  # of a credit, as files hold it: the bound of a file's credits equals that of the credits in memory
_STEP, _REACH = 0.05, 14.0  # of the integration; its error is below 1e-9
_VALUES_AT_ONCE = 2048  # limits memory where there are many different credits


@dataclasses.dataclass(frozen=True)
class Interval:
    """An interval of a mean at 1 − α.

    Attributes:
        low: Lower end of the two-sided interval.
        high: Upper end of the two-sided interval.
        lower_bound: Lower end of the one-sided interval.
        interval_method: `dirichlet`, the method of this module.
    """

    low: float
    high: float
    lower_bound: float
    interval_method: str


def interval(credits: ArrayLike, alpha: float = ALPHA) -> Interval:
    """Return the interval of the mean of credits in [0, 1].

    Raises:
        ValueError: There is no credit, or one is NaN or outside [0, 1].
    """
    ends = lower_bound(credits, alpha / 2), upper_bound(credits, alpha / 2)
    return Interval(*ends, lower_bound(credits, alpha), METHOD)


def lower_bound(credits: ArrayLike, alpha: float) -> float:
    """Return the lower one-sided bound at ``alpha`` of the mean of credits in [0, 1].

    Raises:
        ValueError: There is no credit, or one is NaN or outside [0, 1].
    """
    from scipy.optimize import brentq

    values, counts = _with_worst(credits)
    if values.max() == 0:
        return 0.0
    return float(brentq(lambda mean: _weighted_below(values, counts, mean) - alpha, 0.0, values.max(), xtol=1e-12))


def upper_bound(credits: ArrayLike, alpha: float) -> float:
    """Return the upper one-sided bound at ``alpha``: one less the lower bound of the opponent's credits."""
    return 1.0 - lower_bound(1.0 - np.asarray(credits, dtype=np.float64), alpha)


def p_above(credits: ArrayLike, mean: float) -> float:
    """Return the one-sided p-value of "the true mean is above ``mean``".

    It is below α exactly where :func:`lower_bound` at α lies above ``mean``. For a mean of one half and credits
    0, ½ and 1 it is that of the exact sign test, P(Binomial(wins + losses, ½) ≥ wins).
    """
    return _weighted_below(*_with_worst(credits), mean)


def _with_worst(credits: ArrayLike) -> tuple[Floats, Floats]:
    """Return the different credits with their counts, the added prompt of credit 0 included."""
    credits = np.round(np.asarray(credits, dtype=np.float64), _DIGITS)
    if credits.size == 0 or not (credits.min() >= 0 and credits.max() <= 1):
        raise ValueError("a bound needs at least one credit, and credits must lie in [0, 1]")
    values, counts = np.unique(np.append(credits, 0.0), return_counts=True)
    return values, counts.astype(np.float64)


def _weighted_below(values: Floats, counts: Floats, mean: float) -> float:
    """Return P(Σ Dᵢsᵢ ≤ mean) for the weights D ~ Dirichlet(1, …, 1) of all prompts.

    With gamma variables Gⱼ ~ Γ(nⱼ) for the prompts of credit vⱼ, this is P(Y ≤ 0) of Y = Σ (vⱼ − mean)·Gⱼ. Its moment
    generating function M(s) = Π (1 − s(vⱼ − mean))^(−nⱼ) is integrated along a vertical line s = c + iu through the
    saddle point c: P(Y ≤ 0) = −(1/2πi) ∫ M(s)/s ds for c < 0, and one more for c > 0.
    """
    if mean <= 0:
        return float(mean == 0 and values.max() == 0)
    if mean >= values.max():
        return 1.0
    gaps = values - mean
    real = _saddle_point(gaps, counts)

    # u = width · sinh(t): the trapezoidal rule converges fast however slowly M falls; behind `reach` nothing is left,
    # for |M(c + iu)| ≤ M(c) · (1 + (largest · sinh t)²)^(−1/2·largest²), by the concavity of log(1 + x)
    slopes = gaps / (1 - real * gaps)
    width = 1 / np.sqrt(counts @ slopes**2)
    largest = np.abs(slopes).max() * width
    reach = min(_REACH, np.arcsinh(np.sqrt(np.expm1(80 * largest**2)) / largest))
    t = np.arange(_STEP / 2, reach, _STEP)
    line = real + 1j * width * np.sinh(t)
    parts = np.array_split(np.arange(gaps.size), -(-gaps.size // _VALUES_AT_ONCE))
    log_moments = -sum(np.log(1 - np.outer(line, gaps[part])) @ counts[part] for part in parts)
    integral = (np.exp(log_moments) / line).real @ np.cosh(t) * _STEP * width / np.pi
    return float(min(1.0, max(0.0, (real > 0) - integral)))


def _saddle_point(gaps: Floats, counts: Floats) -> float:
    """Return where M(s) is smallest on the real line, moved away from its neighbour s = 0, the pole of M(s)/s."""
    from scipy.optimize import brentq

    def slope(s: float) -> float:
        return float(counts @ (gaps / (1 - s * gaps)))

    least = float(0.5 / np.sqrt(counts @ gaps**2))  # the poles of M lie at least twice as far from 0
    side = -1.0 if counts @ gaps >= 0 else 1.0  # the saddle point has the sign opposite to the mean of Y
    if slope(side * least) * side >= 0:
        return side * least
    pole = 1 / gaps.min() if side < 0 else 1 / gaps.max()
    return float(brentq(slope, pole * (1 - 1e-12), side * least))
