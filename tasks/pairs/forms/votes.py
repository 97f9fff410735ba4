"""Two answers and a vote: which of them is chosen, by a value, a number's sign, or two scores."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from tasks.core.errors import ConfigError
from tasks.pairs.forms.form import Form, find_all
from tasks.pairs.raw.cells import LARGEST_WEIGHT, Refused, is_blank, need, short
from tasks.pairs.record.pair import Columns

Scalar = str | int | float | bool
MEANINGS = ("first", "second", "tie", "both_bad")
_TEXTS: dict[str, tuple[Scalar, ...]] = {
    "first": ("model_a", "a", "assistant_a", "response_a", "answer_a", "left", "first", "a>b", "a>>b", "[[a]]"),
    "second": ("model_b", "b", "assistant_b", "response_b", "answer_b", "right", "second", "b>a", "b>>a", "[[b]]"),
    "tie": ("tie", "draw", "equal", "same", "both_good", "both good", "tie (bothgood)", "a=b", "b=a", "[[c]]"),
    "both_bad": ("both_bad", "bothbad", "tie (bothbad)", "both bad", "neither"),
}


@dataclasses.dataclass(frozen=True)
class VoteValues:
    """What the values of a vote mean: which answer is better, or neither; of a thumb: `up` or `down`."""

    first: tuple[Scalar, ...] = ()
    second: tuple[Scalar, ...] = ()
    tie: tuple[Scalar, ...] = ()
    both_bad: tuple[Scalar, ...] = ()
    up: tuple[Scalar, ...] = ()
    down: tuple[Scalar, ...] = ()

    def meanings(self) -> dict[str, str]:
        """Return the meaning of each value's spelling.

        Raises:
            ConfigError: One value has two meanings.
        """
        return meanings_of(dataclasses.asdict(self))


def spelling(value: Any) -> str:
    """Return a value as votes are compared: without case and outer spaces; 1, 1.0 and "1" are alike, true is not 1."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float) and -LARGEST_WEIGHT < value < LARGEST_WEIGHT:
        return f"{value:g}"
    text = str(value).strip().casefold()
    try:
        return f"{float(text):g}" if text[-1:].isdecimal() else text
    except ValueError:
        return text


def meanings_of(values: Mapping[str, Iterable[Scalar]]) -> dict[str, str]:
    """Return the meaning of each value's spelling.

    Raises:
        ConfigError: One value has two meanings.
    """
    meanings: dict[str, str] = {}
    for meaning, items in values.items():
        for item in items:
            if meanings.setdefault(spelling(item), meaning) != meaning:
                advice = "give each value one meaning"
                raise ConfigError(f"`ingest.votes` gives {item!r} two meanings", advice)
    return meanings


TEXTS = meanings_of(_TEXTS)


def numbered(first: Scalar, second: Scalar, tie: Scalar | None = None) -> dict[str, str]:
    """Return the meanings of votes that are the answers' numbers."""
    return meanings_of({"first": (first,), "second": (second,), "tie": () if tie is None else (tie,)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Votes(Form):
    """Two answers, and one vote or several of which the most frequent counts.

    Attributes:
        first: Where the first answer stands.
        second: Where the second one stands.
        winner: Where the votes stand; `*` is every item of a list.
        values: What each vote's spelling means.
        is_signed: The vote is a number: below 0 for the first answer, above 0 for the second, 0 for a tie.
        scores: In place of a vote, where the scores of the two stand; the higher one wins.
        min_gap: The least difference of scores, or strength of a signed vote, that makes a pair.
    """

    first: str
    second: str
    winner: tuple[str, ...] = ()
    values: Mapping[str, str] = dataclasses.field(default_factory=dict)
    is_signed: bool = False
    scores: tuple[str, str] | None = None
    min_gap: float = 0.0

    def inner_paths(self) -> Iterator[str]:
        """Yield every path that the form reads."""
        yield from super().inner_paths()
        yield from (self.first, self.second, *self.winner, *(self.scores or ()))

    def pairs(self, row: dict[str, Any]) -> list[dict[str, Any] | Refused]:
        """Return the pair that the votes make of the two answers."""
        first, second = need(row, self.first), need(row, self.second)
        meaning, gap = self._verdict(row)
        if meaning not in ("first", "second"):
            raise Refused(meaning, f"the vote in {self._where()} prefers neither answer")
        if gap is not None and gap < self.min_gap:
            raise Refused("gap_too_small", f"the gap is {gap:g}, below `ingest.min_gap` {self.min_gap:g}")
        chosen, rejected = (first, second) if meaning == "first" else (second, first)
        return [{"chosen": chosen, "rejected": rejected, **({} if gap is None else {"margin": gap})}]

    def _verdict(self, row: dict[str, Any]) -> tuple[str, float | None]:
        """Return what the vote means, and by how much one answer is better, where that is said."""
        if self.scores or self.is_signed:
            return self._by_number(row)
        votes = []
        for path in self.winner:
            if "*" not in path:
                need(row, path)
            votes += [self._meaning(value) for value in find_all(row, path) if not is_blank(value)]
        if not votes:
            raise Refused("no_vote", f"{self._where()} holds no vote")
        ranking = Counter(votes).most_common()
        is_undecided = len(ranking) > 1 and ranking[0][1] == ranking[1][1]
        return ("tie" if is_undecided else ranking[0][0]), None

    def _by_number(self, row: dict[str, Any]) -> tuple[str, float]:
        paths = self.scores or self.winner
        values = [need(row, path) for path in paths]
        if all(map(is_blank, values)):
            raise Refused("no_vote", f"{self._where()} holds no vote")
        numbers = [number_of(value, path) for value, path in zip(values, paths, strict=True)]
        lead = numbers[0] - numbers[1] if self.scores else -numbers[0]
        return "first" if lead > 0 else "second" if lead < 0 else "tie", abs(lead)

    def _meaning(self, value: Any) -> str:
        if isinstance(value, dict):  # an annotator's answer with its meta data
            value = value.get("value", value)
        meaning = None if isinstance(value, dict | list) else self.values.get(spelling(value))
        if meaning not in MEANINGS:
            known = ", ".join(list(self.values)[:8])
            detail = (
                f"{self._where()} holds the vote {short(value)}, which is none of {known}: name it in `ingest.votes`"
            )
            raise Refused("unknown_vote", detail)
        return meaning

    def _where(self) -> str:
        return " and ".join(f"`{path}`" for path in self.scores or self.winner)


def number_of(value: Any, name: str) -> float:
    """Return a score as a finite number; tables and some data sets spell it as text."""
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, str | int | float) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise Refused("bad_score", f"`{name}` is {short(value)}, and no finite number")
    return number


def votes_by_params(columns: Columns, values: VoteValues, min_gap: float) -> Votes:
    """Return the form that `ingest.columns` names by `first`, `second` and `winner`.

    Raises:
        ConfigError: One of the three is not named, or a value has two meanings.
    """
    first, second, winner = columns.first, columns.second, columns.winner
    if not (first and second and winner):
        lacking = next(name for name in ("first", "second", "winner") if not getattr(columns, name))
        raise ConfigError(f"`ingest.columns` names no `{lacking}`", "name `first`, `second` and `winner` together")
    return Votes(
        name="votes",
        about=f"`{winner}` says which of `{first}` and `{second}` is chosen",
        first=first,
        second=second,
        winner=(winner,),
        values=TEXTS | side_values(first, second) | values.meanings(),
        min_gap=min_gap,
    )


def side_values(first: str, second: str) -> dict[str, str]:
    """Return votes that are the name of an answer's column."""
    return {spelling(first): "first", spelling(second): "second"}


def are_known(votes: Collection[Any], values: Mapping[str, str]) -> bool:
    """Tell whether each vote has a meaning."""
    return all(not isinstance(vote, dict | list) and spelling(vote) in values for vote in votes)
