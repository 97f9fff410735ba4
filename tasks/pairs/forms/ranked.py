"""A list of answers with scores or ranks: which two of them make a pair."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal, Self

from tasks.core.files import sha256_bytes
from tasks.pairs.forms.form import Form, refuse_unread_keys
from tasks.pairs.forms.votes import number_of
from tasks.pairs.raw.cells import Refused, is_blank, json_value, kind, need
from tasks.pairs.record.pair import ABSENT, Columns, get_field

Pairing = Literal["best_worst", "all_pairs", "random"]


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer with its score: the higher, the better.

    Attributes:
        reply: A text, a message or messages.
        score: How good it is.
        system: Its own system prompt.
        origin: What the caller knows it by.
    """

    reply: Any
    score: float
    system: Any = None
    origin: Any = None


def pair_up(answers: Sequence[Answer], pairing: Pairing, min_gap: float) -> list[tuple[Answer, Answer]]:
    """Return (better, worse) pairs of answers by a rule.

    Args:
        answers: Those that have a score.
        pairing: The best against the worst, every two that differ, or one of these at random (fixed by the texts).
        min_gap: The least difference of scores.

    Raises:
        Refused: There are fewer than two answers, all scores are alike, or no two are far enough apart.
    """
    if len(answers) < 2:
        raise Refused("unpaired", f"the prompt has {len(answers)} answer with a score")
    if pairing == "best_worst":
        best, worst = max(answers, key=_score), min(answers, key=_score)
        candidates = [(best, worst)]
    else:
        ordered = [sorted(two, key=_score, reverse=True) for two in itertools.combinations(answers, 2)]
        candidates = [(better, worse) for better, worse in ordered]
    unlike = [(better, worse) for better, worse in candidates if better.score > worse.score]
    if not unlike:
        raise Refused("tie", f"all {len(answers)} answers have the same score")
    pairs = [(better, worse) for better, worse in unlike if better.score - worse.score >= min_gap]
    if not pairs:
        raise Refused("gap_too_small", f"no two answers differ by `ingest.min_gap` {min_gap:g}")
    return [min(pairs, key=_shuffled)] if pairing == "random" else pairs


def _score(answer: Answer) -> float:
    return answer.score


def _shuffled(pair: tuple[Answer, Answer]) -> str:
    return sha256_bytes(repr([answer.reply for answer in pair]).encode(errors="replace"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranked(Form):
    """A list of answers in each row.

    Attributes:
        answers: Where the list stands.
        text: Where an item's reply stands in it; empty where the item is the reply.
        score: Where an item's score stands in it.
        rank: Where an item's rank stands in it, the lowest being the best.
        scores: Where a list of scores beside the answers stands.
        ranks: Where a list of ranks beside the answers stands.
        system: Where an item's own system prompt stands in it.
        pairing: The rule that makes pairs.
        min_gap: The least difference of scores or ranks.
    """

    answers: str
    text: str = ""
    score: str = ""
    rank: str = ""
    scores: str = ""
    ranks: str = ""
    system: str = ""
    pairing: Pairing = "best_worst"
    min_gap: float = 0.0

    def inner_paths(self) -> Iterator[str]:
        """Yield every path that the form reads."""
        yield from super().inner_paths()
        yield from filter(None, (self.answers, self.scores, self.ranks))

    def bind(self, columns: Columns, ignored: Collection[str]) -> Self:
        """Return the form beside the user's columns; an item's system prompt may be waived, too."""
        bound = super().bind(columns, ignored)
        return dataclasses.replace(bound, system="") if self.system in ignored else bound

    def columns_given(self) -> tuple[str, ...]:
        """Return the standard columns that the rewritten rows have."""
        return (*super().columns_given(), *(("system",) if self.system else ()))

    def pairs(self, row: dict[str, Any]) -> list[dict[str, Any] | Refused]:
        """Return the pairs that the rule makes of the row's answers."""
        answers = list(self._scored(row))
        return [self._pair(*pair) for pair in pair_up(answers, self.pairing, self.min_gap)]

    def _scored(self, row: dict[str, Any]) -> Iterator[Answer]:
        """Yield the answers that have a score; one without says nothing of which is better."""
        items = json_value(need(row, self.answers))
        if not isinstance(items, list):
            raise Refused("not_a_list", f"`{self.answers}` is {kind(items)}")

        beside = self.scores or self.ranks
        numbers = json_value(need(row, beside)) if beside else [None] * len(items)
        if not isinstance(numbers, list) or len(numbers) != len(items):
            raise Refused("not_a_list", f"`{beside}` is no list with a number for each of `{self.answers}`")

        for place, (item, number) in enumerate(zip(items, numbers, strict=True)):
            name = beside or f"{self.answers}.{place}.{self.score or self.rank}"
            value = number if beside else self._field(item, self.score or self.rank, place)
            if not is_blank(value):
                sign = 1 if self.score or self.scores else -1
                reply = self._field(item, self.text, place) if self.text else item
                system = self._field(item, self.system, place) if self.system else None
                yield Answer(reply, sign * number_of(value, name), system)

    def _field(self, item: Any, path: str, place: int) -> Any:
        where = f"{self.answers}.{place}"
        if not isinstance(item, dict):
            raise Refused("not_a_list", f"`{where}` is {kind(item)}, and no object")
        refuse_unread_keys(item, where, {self.text, self.score, self.rank, self.system, *self.waived})
        value = get_field(item, path)
        return None if value is ABSENT else value

    def _pair(self, better: Answer, worse: Answer) -> dict[str, Any]:
        pair = {"chosen": better.reply, "rejected": worse.reply}
        if self.score or self.scores:
            pair["margin"] = better.score - worse.score
        if self.system:
            if better.system != worse.system:
                detail = (
                    f"the two answers stand under different `{self.system}`; `ingest.ignore: [{self.system}]` waives it"
                )
                raise Refused("prompts_differ", detail)
            pair["system"] = better.system
        return pair


def ranked_by(answers: str, text: str, value: str, is_rank: bool) -> Ranked:
    """Return the form of a list of answers with a score or rank in each item, or in a list beside it.

    Args:
        answers: Where the list stands.
        text: An item's reply; empty where the items are the replies and ``value`` is a list beside them.
        value: An item's score or rank.
        is_rank: The lowest value is the best.
    """
    about = f"`{answers}` by `{value}`, the {'lowest' if is_rank else 'highest'} being the best"
    names = ("rank", "ranks") if is_rank else ("score", "scores")
    place: dict[str, Any] = {names[0] if text else names[1]: value}
    return Ranked(name="ranked", about=about, answers=answers, text=text, **place)
