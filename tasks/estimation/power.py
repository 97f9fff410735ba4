"""What a look at n prompts can show: the level that it may spend, the smallest win rate, and how many prompts help."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from tasks.core.params import load_params
from tasks.estimation.bounds import ALPHA

EVEN = 0.5  # the win rate of two equal models
POWER = 0.8  # the probability with which the smallest detectable win rate is shown
_LOOKS_TOLD = (1, 2, 5)


def spent_alpha(alpha: float, look: int) -> float:
    """Return the level of the ``look``-th look (from 1), α·6/(πk)²; the levels of all looks sum to ``alpha``."""
    return alpha * 6 / (math.pi * look) ** 2


def smallest_detectable_win_rate(prompts: int, alpha: float = ALPHA, threshold: float = EVEN) -> float:
    """Return the smallest true win rate that the gate finds above ``threshold`` at level ``alpha`` in 80 % of cases.

    It is exact for wins and losses without ties: w is the fewest wins with P(Binomial(n, threshold) ≥ w) < α, and the
    rate p solves P(Binomial(n, p) ≥ w) = 0.8. It is 1 where n wins of n are too few. Ties and soft credits have less
    spread, so that smaller rates can be shown.
    """
    from scipy.special import betainc, betaincinv

    wins = np.arange(1, prompts + 1)
    enough = wins[betainc(wins, prompts - wins + 1, threshold) < alpha]
    return float(betaincinv(enough[0], prompts - enough[0] + 1, POWER)) if enough.size else 1.0


def prompts_needed(credits: ArrayLike, alpha: float, threshold: float = EVEN) -> int | None:
    """Return about how many prompts show a win rate as observed with a power of 80 %, ((z_α + z_power)·sd/(mean − t))².

    None where the mean is not above the threshold t, or where all credits are equal.
    """
    credits = np.asarray(credits, dtype=np.float64)
    gain = float(credits.mean()) - threshold
    spread = float(credits.std(ddof=1)) if credits.size > 1 else 0.0
    if gain <= 0 or np.ptp(credits) == 0:
        return None
    normal = NormalDist()
    return math.ceil(((normal.inv_cdf(1 - alpha) + normal.inv_cdf(POWER)) * spread / gain) ** 2)


def describe_power(prompts: int, params: Path) -> str:
    """Return a sentence on what the gate of a params file can show at its first looks at so many prompts.

    It is for people. So a file without these keys counts as one with their defaults; `register` checks them.
    """
    register = load_params(params).get("register") if params.is_file() else None
    gate = register.get("gate") if isinstance(register, dict) else None
    given = {key: value for key, value in (gate or {}).items() if isinstance(value, int | float)}
    alpha, margin = given.get("alpha", ALPHA), given.get("margin", 0.0)

    rates = [
        f"{100 * smallest_detectable_win_rate(prompts, spent_alpha(alpha, look), EVEN + margin):.1f} % at look {look}"
        for look in _LOOKS_TOLD
    ]
    chances = f"alpha {alpha:g} over all looks, power {100 * POWER:g} %"
    fewest = given.get("min_prompts", 0)
    need = f"; a first version needs {fewest} prompts" if prompts < fewest else ""
    return f"{prompts} prompts can show the gate a win rate of {', '.join(rates)} or more ({chances}){need}"
