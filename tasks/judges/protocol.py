"""The judge protocol: a judge sees a question and two answers in the order shown, and says which is better.

A judge never learns which answer is the candidate's. The caller shows every pair in both orders and
un-swaps the opinions (see :mod:`tasks.judges.games`), so a judge's position bias can be measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

Status = Literal["ok", "tie", "invalid", "error", "skipped_identical"]
Order = Literal["AB", "BA"]

MISSING: tuple[Status, ...] = ("invalid", "error")


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer as a judge sees it.

    Attributes:
        text: The reply's text, as generated.
        finish: `stop` when the model ended it, `length` when the token limit did.
        n_tokens: Tokens of the reply, without the end-of-sequence token.
    """

    text: str
    finish: str = "stop"
    n_tokens: int = 0


@dataclasses.dataclass(frozen=True)
class Item:
    """One item to judge: a question and two answers in the order shown; `gold` is a known good answer."""

    item_id: str
    question: str
    first: Answer
    second: Answer
    gold: str | None = None


@dataclasses.dataclass(frozen=True)
class Opinion:
    """What a judge says about one :class:`Item`.

    Attributes:
        status: `ok` or `tie`; `invalid` (the judge's output cannot be used) and `error` (it gave none) mean
            that the verdict is missing, which is neither a tie nor a win nor a loss.
        p_first: Probability that the first answer is better; 0.5 for a tie, None when missing.
        detail: The judge's reasons; those about one answer are under the keys `first` and `second`.
    """

    status: Status
    p_first: float | None
    detail: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Judge(Protocol):
    """Gives one opinion on each item, in the order of the items."""

    @property
    def fingerprint(self) -> str:
        """A digest of everything that can change an opinion: kind, version, settings."""

    def judge(self, items: Sequence[Item]) -> list[Opinion]:
        """Judge every item; a failure is an opinion with status `invalid` or `error`, not an exception."""


def opinion_of(p_first: float, detail: Mapping[str, Any] | None = None) -> Opinion:
    """Return the opinion for a probability: 0.5 is a tie, any other value is a decision."""
    return Opinion("tie" if p_first == 0.5 else "ok", p_first, detail or {})
