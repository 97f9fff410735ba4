"""How far a judge's verdicts agree with labels: agreement, Cohen's κ and first-position share, with intervals.

A game's credit sᵢ is that of the answer that the label prefers: above ½ the judge agrees, below it does not, at ½ it
decides nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.estimation.bounds import interval
from tasks.judges.games.games import Game

Floats = NDArray[np.float64]
RESAMPLES = 2000
SEED = 0  # of the bootstrap


@dataclasses.dataclass(frozen=True)
class Measure:
    """An estimate with its two-sided interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Agreement:
    """A judge beside labels.

    Attributes:
        pairs: Labelled pairs that were judged or tried.
        decided: Pairs with a verdict that prefers one answer.
        ties: Pairs whose verdict prefers neither, orders that contradict each other among them.
        invalid: Pairs without a verdict.
        agreement: Agreeing over decided pairs, with Clopper-Pearson's interval.
        bound: Its one-sided lower bound; 0 where no pair was decided.
        kappa: Cohen's κ of both orders, a tie as a label of its own; the interval is a bootstrap over pairs.
        first_position_share: Mean credit of the answer shown first, ½ without a bias; None where scores decide.
        consistency: Share of pairs with the same verdict in both orders; None where scores decide.
    """

    pairs: int
    decided: int
    ties: int
    invalid: int
    agreement: Measure | None
    bound: float
    kappa: Measure | None
    first_position_share: Measure | None
    consistency: float | None


def agreement_of(games: Sequence[Game], alpha: float = 0.05) -> Agreement:
    """Return how far the games agree with the labels; intervals are at 1 − alpha."""
    both = np.array([[game.shown_first, game.shown_second] for game in games], dtype=np.float64).reshape(-1, 2)
    both = both[~np.isnan(both).any(axis=1)]
    credits = both.mean(axis=1)
    agreeing, decided = int((credits > 0.5).sum()), int((credits != 0.5).sum())

    ends = interval(credits[credits != 0.5] > 0.5, alpha) if decided else None
    has_orders = bool(games) and games[0].has_orders and len(both) > 0
    first = (both[:, 0] + 1 - both[:, 1]) / 2
    return Agreement(
        pairs=len(games),
        decided=decided,
        ties=len(both) - decided,
        invalid=len(games) - len(both),
        agreement=Measure(agreeing / decided, ends.low, ends.high) if ends else None,
        bound=ends.lower_bound if ends else 0.0,
        kappa=_kappa(both, alpha) if len(both) else None,
        first_position_share=_bootstrap(first[:, None], lambda sums: sums[:, 0], alpha) if has_orders else None,
        consistency=float((np.sign(both[:, 0] - 0.5) == np.sign(both[:, 1] - 0.5)).mean()) if has_orders else None,
    )


def _kappa(both: Floats, alpha: float) -> Measure:
    """Return κ = (pₒ − pₑ)/(1 − pₑ) over both orders of each pair, where the label names each position once.

    pₒ is the share of verdicts that name the labelled answer. pₑ = ½·P(judge says first) + ½·P(judge says second).
    """
    agrees = (both > 0.5).mean(axis=1)
    says_first = ((both[:, 0] > 0.5).astype(float) + (both[:, 1] < 0.5)) / 2
    says_second = ((both[:, 0] < 0.5).astype(float) + (both[:, 1] > 0.5)) / 2

    def kappa(means: Floats) -> Floats:
        expected = (means[:, 1] + means[:, 2]) / 2
        return (means[:, 0] - expected) / (1 - expected)

    return _bootstrap(np.column_stack([agrees, says_first, says_second]), kappa, alpha)


def _bootstrap(rows: Floats, statistic: Callable[[Floats], Floats], alpha: float) -> Measure:
    """Return a statistic of the rows' means with its percentile interval over resampled rows."""
    count = len(rows)
    drawn = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count
    low, high = np.quantile(statistic(drawn @ rows), [alpha / 2, 1 - alpha / 2])
    return Measure(float(statistic(rows.mean(axis=0)[None])[0]), float(low), float(high))
