"""A board of several models: Bradley-Terry strengths from their pairwise credits, fitted by evalica.

P(i beats j) = sᵢ/(sᵢ + sⱼ); a tie is half a win and half a loss, and a soft credit c is c wins and 1 − c losses.
The board only orders what is shown. The gate decides on direct comparisons.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from tasks.estimation.bounds import ALPHA, Floats

RESAMPLES = 1000
_ELO = 400 / math.log(10)  # rating points for each unit of log-strength
_TOLERANCE, _MOST_STEPS = 1e-14, 100_000  # of the fit


@dataclasses.dataclass(frozen=True)
class Duel:
    """The credits of ``one`` against ``other``, by prompt."""

    one: str
    other: str
    credits: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Standing:
    """One model's place on the board.

    Attributes:
        name: The model.
        rating: Elo points above the anchor: 400·log₁₀ of the ratio of their strengths.
        low: Lower end of its interval, by a bootstrap over prompts.
        high: Upper end.
        win_rate: The win rate against the anchor that the strengths imply.
    """

    name: str
    rating: float
    low: float
    high: float
    win_rate: float


def board(
    duels: Sequence[Duel], anchor: str, alpha: float = ALPHA, seed: int = 0, resamples: int = RESAMPLES
) -> list[Standing]:
    """Return the models by falling rating; ``anchor`` has rating 0.

    One tied prompt is added to each duel, so that a model that never lost has a finite strength. A resample draws
    prompts, each with its credits in all duels, for these are not independent.

    Args:
        duels: Each pair of models at most once; every model is connected to the anchor through duels.
        anchor: The model that the ratings count from.
        alpha: Intervals are at 1 − α.
        seed: Of the bootstrap.
        resamples: Bootstrap resamples.
    """
    prompts = sorted({prompt for duel in duels for prompt in duel.credits})
    column = {prompt: number for number, prompt in enumerate(prompts)}
    won, met = np.zeros((2, len(duels), len(prompts)))
    for row, duel in enumerate(duels):
        columns = [column[prompt] for prompt in duel.credits]
        met[row, columns], won[row, columns] = 1.0, list(duel.credits.values())

    # how often each prompt counts: once, and then as each resample drew it
    drawn = np.random.default_rng(seed).multinomial(len(prompts), np.full(len(prompts), 1 / len(prompts)), resamples)
    counts = np.vstack([np.ones(len(prompts), dtype=np.int64), drawn])
    fits = [strengths(duels, won @ count + 0.5, met @ count + 1) for count in counts]

    names = list(fits[0])
    logs = np.log([[fit[name] / fit[anchor] for name in names] for fit in fits])
    ends = _ELO * np.quantile(logs[1:], [alpha / 2, 1 - alpha / 2], axis=0)
    rows = [
        Standing(name, _ELO * log, low, high, 1 / (1 + math.exp(-log)))
        for name, log, low, high in zip(names, logs[0].tolist(), *ends.tolist(), strict=True)
    ]
    return sorted(rows, key=lambda row: -row.rating)


def strengths(duels: Sequence[Duel], won: Floats, met: Floats) -> dict[str, float]:
    """Return the Bradley-Terry strength of each model, up to a common factor.

    Args:
        duels: The pairs of models.
        won: Wins of the first model of each duel, a tie as one half. [duels]
        met: Prompts of each duel; both sides must have won some part of them. [duels]
    """
    from evalica import Winner, bradley_terry

    ones, others = [duel.one for duel in duels], [duel.other for duel in duels]
    result = bradley_terry(
        [*ones, *ones],
        [*others, *others],
        [Winner.X] * len(duels) + [Winner.Y] * len(duels),
        weights=[*won.tolist(), *(met - won).tolist()],
        tolerance=_TOLERANCE,
        limit=_MOST_STEPS,
    )
    return {str(name): float(score) for name, score in result.scores.items()}
