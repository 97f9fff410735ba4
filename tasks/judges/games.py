"""Pairs of answers judged in both orders; each verdict is un-swapped, so that it is about the candidate.

AB shows the candidate first, BA shows it second. A pair of identical answers is not shown to a judge:
it is a tie (`skipped_identical`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tasks.judges.protocol import MISSING, Answer, Item, Judge, Opinion, Order, Status
from tasks.telemetry.log import bar

ORDERS: tuple[Order, ...] = ("AB", "BA")
_AT_ONCE = 64  # items handed to a judge in one call, so that progress shows


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A candidate's and an opponent's answer to one prompt; `sample` numbers the pairs of one prompt."""

    prompt_id: str
    sample: int
    question: str
    candidate: Answer
    opponent: Answer
    gold: str | None = None

    @property
    def is_identical(self) -> bool:
        """Whether both answers are the same text with the same ending."""
        candidate, opponent = self.candidate, self.opponent
        return (candidate.text, candidate.finish) == (opponent.text, opponent.finish)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict of one order, un-swapped: it is about the candidate in either order.

    Attributes:
        p_candidate: Probability that the candidate is better; 0.5 for ties, None when missing.
        judge: The judge's fingerprint.
        detail: The judge's reasons; those about one answer are under the keys `candidate` and `opponent`.
    """

    prompt_id: str
    sample: int
    order: Order
    status: Status
    p_candidate: float | None
    judge: str
    detail: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Game:
    """One comparison with both verdicts as the candidate's credit, NaN where a verdict is missing."""

    prompt_id: str
    sample: int
    shown_first: float
    shown_second: float
    is_judged: bool


def play(judge: Judge, comparisons: Sequence[Comparison], what: str = "judging") -> list[Verdict]:
    """Judge every comparison in both orders; verdicts come in the order of the comparisons, AB before BA."""
    fingerprint = judge.fingerprint

    to_judge = [(pair, order) for pair in comparisons if not pair.is_identical for order in ORDERS]
    opinions: dict[tuple[Comparison, Order], Opinion] = {}
    starts = range(0, len(to_judge), _AT_ONCE)
    with bar(what, total=len(starts), unit="batch") as shown:
        for start in starts:
            batch = to_judge[start : start + _AT_ONCE]
            opinions |= zip(batch, judge.judge([_item(pair, order) for pair, order in batch]), strict=True)
            shown.update()

    identical = Opinion("skipped_identical", 0.5)
    return [
        _unswapped(pair, order, opinions.get((pair, order), identical), fingerprint)
        for pair in comparisons
        for order in ORDERS
    ]


def _item(pair: Comparison, order: Order) -> Item:
    shown = (pair.candidate, pair.opponent) if order == "AB" else (pair.opponent, pair.candidate)
    return Item(f"{pair.prompt_id}/{pair.sample}", pair.question, *shown, gold=pair.gold)


def _unswapped(pair: Comparison, order: Order, opinion: Opinion, judge: str) -> Verdict:
    """Return the opinion on the answers as shown, as a verdict on the candidate."""
    p_first = None if opinion.status in MISSING else opinion.p_first
    p_candidate = p_first if p_first is None or order == "AB" else 1.0 - p_first
    shown = ("candidate", "opponent") if order == "AB" else ("opponent", "candidate")
    names = dict(zip(("first", "second"), shown, strict=True))
    detail = {names.get(key, key): value for key, value in opinion.detail.items()}
    return Verdict(pair.prompt_id, pair.sample, order, opinion.status, p_candidate, judge, detail)


def pair_up(verdicts: Sequence[Verdict]) -> list[Game]:
    """Join the two verdicts of each comparison, which :func:`play` returns one after the other."""
    return [
        Game(first.prompt_id, first.sample, _credit(first), _credit(second), first.status != "skipped_identical")
        for first, second in zip(verdicts[::2], verdicts[1::2], strict=True)
    ]


def _credit(verdict: Verdict) -> float:
    return math.nan if verdict.p_candidate is None else verdict.p_candidate


def columns(games: Iterable[Game]) -> dict[str, list[Any]]:
    """Return games as the metric's input columns."""
    rows = [(game.prompt_id, game.shown_first, game.shown_second) for game in games]
    names = ("prompt_ids", "shown_first", "shown_second")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}
