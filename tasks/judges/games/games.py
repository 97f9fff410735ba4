"""Two answers to one prompt, the verdicts on them, and the credit that they give the candidate.

A pair judge sees each pair in both orders: AB shows the candidate first, BA second. Scores have no orders. A pair of
identical answers is not shown to a judge: it is a tie (`skipped_identical`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from tasks.judges.protocol.protocol import Answer, Prompt, Status

Order = Literal["AB", "BA", "none"]
BOTH: tuple[Order, ...] = ("AB", "BA")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A candidate's and an opponent's answer to one prompt; `sample` numbers the pairs of one prompt."""

    prompt_id: str
    sample: int
    prompt: Prompt
    candidate: Answer
    opponent: Answer

    @property
    def is_identical(self) -> bool:
        """Whether both answers are the same text with the same ending."""
        candidate, opponent = self.candidate, self.opponent
        return (candidate.text, candidate.finish) == (opponent.text, opponent.finish)

    def identical(self, order: Order, judge: str) -> Verdict:
        """Return the verdict on identical answers: a tie that no judge was asked about."""
        return Verdict(self.prompt_id, self.sample, order, "skipped_identical", 0.5, judge, {})


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A verdict on a comparison, un-swapped: it is about the candidate in either order.

    Attributes:
        order: The order of showing; `none` where scores decide.
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

    @property
    def credit(self) -> float:
        """The candidate's credit; NaN when missing."""
        return math.nan if self.p_candidate is None else self.p_candidate


@dataclasses.dataclass(frozen=True)
class Game:
    """One comparison with the candidate's credit in each order, NaN where a verdict is missing.

    Attributes:
        is_judged: Whether a judge was asked; identical answers are shown to none.
        has_orders: Whether there are two verdicts; scores give one, which stands for both.
    """

    prompt_id: str
    sample: int
    shown_first: float
    shown_second: float
    is_judged: bool
    has_orders: bool

    @property
    def credit(self) -> float:
        """The mean of both orders; NaN where one is missing."""
        return (self.shown_first + self.shown_second) / 2


def pair_up(verdicts: Iterable[Verdict]) -> Iterator[Game]:
    """Join the verdicts of each comparison, which stand one behind the other."""
    for (prompt_id, sample), group in itertools.groupby(verdicts, lambda verdict: (verdict.prompt_id, verdict.sample)):
        both = list(group)
        first, second = both[0], both[-1]
        is_judged = first.status != "skipped_identical"
        yield Game(prompt_id, sample, first.credit, second.credit, is_judged, first.order != "none")


def columns(games: Iterable[Game]) -> dict[str, list[Any]]:
    """Return games as the metric's input columns."""
    rows = [(game.prompt_id, game.shown_first, game.shown_second) for game in games]
    names = ("prompt_ids", "shown_first", "shown_second")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}
