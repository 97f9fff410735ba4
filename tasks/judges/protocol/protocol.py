"""The two protocols of judges, and what they see and say.

A pair judge sees a conversation and two answers in the order shown, and says which is better. It is asked in both
orders, so its position bias can be measured. A scorer rates one answer at a time; the scores decide. Neither learns
whose answer it sees.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Protocol

from tasks.core.files import digest_of

Status = Literal["ok", "tie", "invalid", "error", "skipped_identical"]
MISSING: tuple[Status, ...] = ("invalid", "error")


@dataclasses.dataclass(frozen=True)
class Turn:
    """One message of a conversation: who speaks (`system`, `user`, `assistant`, `tool`), and the text."""

    role: str
    text: str


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A conversation up to the answer.

    Attributes:
        turns: All of it, in order.
        gold: A known good answer; None for none.
        ids: Its tokens as the base reads them, empty where they are not known.
    """

    turns: tuple[Turn, ...]
    gold: str | None = None
    ids: tuple[int, ...] = ()

    @property
    def question(self) -> str:
        """The last turn of the user; of a conversation without one, the last turn."""
        asked = [turn.text for turn in self.turns if turn.role == "user"]
        return asked[-1] if asked else self.turns[-1].text


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
    """What a pair judge sees: a conversation and two answers in the order shown."""

    item_id: str
    prompt: Prompt
    first: Answer
    second: Answer


@dataclasses.dataclass(frozen=True)
class Response:
    """What a scorer sees: a conversation and one answer."""

    prompt: Prompt
    answer: Answer

    @cached_property
    def key(self) -> str:
        """A digest of all that a scorer sees; equal responses are scored once."""
        turns = [[turn.role, turn.text] for turn in self.prompt.turns]
        return digest_of([turns, self.prompt.gold, self.answer.text, self.answer.finish])


@dataclasses.dataclass(frozen=True)
class Usage:
    """What one judgement took. It goes into caches and receipts, never into a stage's output.

    Attributes:
        tokens_in: Tokens read by the judge.
        tokens_out: Tokens written by the judge.
        cost: In the currency of the prices that params give.
        seconds: From the first attempt to the last answer.
        attempts: Calls made, retries included.
        cached: Judgements that were recalled instead of made: 0 or 1.
        model: The model as the server names it.
    """

    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    attempts: int = 0
    cached: int = 0
    model: str = ""

    def __add__(self, other: Usage) -> Usage:
        """Return the sum of both; of the models, the newer one that is known."""
        sums = {
            field.name: getattr(self, field.name) + getattr(other, field.name)
            for field in dataclasses.fields(self)
            if field.name != "model"
        }
        return Usage(**sums, model=other.model or self.model)


@dataclasses.dataclass(frozen=True)
class Opinion:
    """What a pair judge says about one :class:`Item`.

    Attributes:
        status: `ok` or `tie`; `invalid` (the judge's output cannot be used) and `error` (it gave none) mean
            that the verdict is missing, which is neither a tie nor a win nor a loss.
        p_first: Probability that the first answer is better; 0.5 for a tie, None when missing.
        detail: The judge's reasons; those about one answer are under the keys `first` and `second`.
        usage: What it took.
    """

    status: Status
    p_first: float | None
    detail: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    usage: Usage = dataclasses.field(default_factory=Usage, compare=False)


@dataclasses.dataclass(frozen=True)
class Score:
    """What a scorer says about one :class:`Response`.

    Attributes:
        value: The score, higher is better; None when missing.
        detail: The scorer's reasons.
        status: `ok`; `invalid` or `error` where the score is missing.
        usage: What it took.
    """

    value: float | None
    detail: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    status: Status = "ok"
    usage: Usage = dataclasses.field(default_factory=Usage, compare=False)


class PairJudge(Protocol):
    """Compares two answers.

    It may also have: `at_once`, the most items that it is asked at a time, else 1; `prepare(items)`, which is called
    with all items of a stage before it is asked about any; `async stop()`, after which it begins nothing that is paid;
    and `async close()`, called at the end of an event loop.
    """

    @property
    def fingerprint(self) -> str:
        """A digest of everything that can change an opinion: kind, version, settings."""

    async def judge(self, item: Item) -> Opinion:
        """Judge one item; a failure is an opinion with status `invalid` or `error`, not an exception."""


class Scorer(Protocol):
    """Rates one answer at a time.

    Attributes:
        dead_band: Scores that differ by this much or less are a tie.
        is_soft: Whether scores are log-odds, so that σ(r₁ − r₂) is the probability that the first answer is better;
            otherwise the higher score wins.
    """

    dead_band: float
    is_soft: bool

    @property
    def fingerprint(self) -> str:
        """A digest of everything that can change a score: kind, version, settings."""

    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Score every response, in the same order; a failure is a score without a value, not an exception."""


def opinion_of(p_first: float, detail: Mapping[str, Any] | None = None) -> Opinion:
    """Return the opinion for a probability: 0.5 is a tie, any other value is a decision."""
    return Opinion("tie" if p_first == 0.5 else "ok", p_first, detail or {})
