"""Published sets whose pairs take more than a table's entry: a class each."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.pairs.forms.form import Form, find
from tasks.pairs.raw.cells import Refused, json_value, kind, need, short, text_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArenaLists(Form):
    """Conversations as three JSON lists: the user's turns, and the replies of either model; a flag for each outcome."""

    def inner_paths(self) -> Iterator[str]:
        """Yield every path that the form reads."""
        yield from ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie")

    def pairs(self, row: dict[str, Any]) -> list[dict[str, Any] | Refused]:
        """Return the two conversations in the order of the vote."""
        names = ("winner_model_a", "winner_model_b", "winner_tie")
        flags = [str(need(row, name)).strip().casefold() in ("1", "1.0", "true") for name in names]
        if sum(flags) != 1:
            raise Refused("unknown_vote", f"{sum(flags)} of {', '.join(names)} are 1")
        if flags[2]:
            raise Refused("tie", "`winner_tie` is 1")
        asked = self._texts(row, "prompt")
        first, second = (self._talk(asked, self._texts(row, name)) for name in ("response_a", "response_b"))
        return [{"chosen": first, "rejected": second} if flags[0] else {"chosen": second, "rejected": first}]

    def _texts(self, row: dict[str, Any], name: str) -> list[str]:
        value = json_value(need(row, name))
        if not isinstance(value, list):
            raise Refused("not_a_list", f"`{name}` is {kind(value)}, and no list of texts")
        return [text_of(item, name) for item in value]

    def _talk(self, asked: list[str], replies: list[str]) -> list[dict[str, str]]:
        if len(asked) != len(replies):
            raise Refused("not_a_list", f"{len(asked)} turns of the user have {len(replies)} replies")
        turns = zip(itertools.cycle(("user", "assistant")), itertools.chain(*zip(asked, replies, strict=True)))
        return [{"role": role, "content": content} for role, content in turns]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeSentences(Form):
    """A better and a worse text without a prompt: the prompt is the words that both begin with.

    Attributes:
        good: Where the better text stands.
        bad: Where the worse one stands.
    """

    good: str
    bad: str

    def inner_paths(self) -> Iterator[str]:
        """Yield every path that the form reads."""
        yield from super().inner_paths()
        yield from (self.good, self.bad)

    def is_of(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a row has the two texts, and no prompt beside them."""
        return super().is_of(row) and "prompt" not in row

    def columns_given(self) -> tuple[str, ...]:
        """Return the standard columns that the rewritten rows have."""
        return ("prompt", *super().columns_given())

    def pairs(self, row: dict[str, Any]) -> list[dict[str, Any] | Refused]:
        """Return the words that both texts begin with, and the rest of each."""
        good, bad = (text_of(need(row, name), name) for name in (self.good, self.bad))
        words = zip(good.split(" "), bad.split(" "), strict=False)
        prompt = " ".join(word for word, _ in itertools.takewhile(lambda two: two[0] == two[1], words))
        rests = good[len(prompt) :], bad[len(prompt) :]
        if not prompt or not all(rest.strip() for rest in rests):
            raise Refused("nothing_shared", f"`{self.good}` and `{self.bad}` do not begin with the same word")
        return [{"prompt": prompt, "chosen": rests[0], "rejected": rests[1]}]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VotesOnTwos(Form):
    """Several answers in columns of their own, and a list of votes on every two of them (1, 2; 0 for a tie).

    Attributes:
        answers: Where the answers stand, in order.
        votes: Where the list of votes stands: on the first and second, the first and third, … answer.
    """

    answers: tuple[str, ...]
    votes: str

    def inner_paths(self) -> Iterator[str]:
        """Yield every path that the form reads."""
        yield from super().inner_paths()
        yield from (*self.answers, self.votes)

    def common(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the prompt: the question, and the passages that its answers are made from."""
        common = super().common(row)
        question = text_of(need(row, "question"), "question")
        passages = find(row, "passages")
        texts = [question, *(_passage(item) for item in (passages if isinstance(passages, list) else []))]
        return {**common, "prompt": "\n\n".join(texts)}

    def pairs(self, row: dict[str, Any]) -> list[dict[str, Any] | Refused]:
        """Return a pair of every two answers that a vote tells apart."""
        answers, votes = [need(row, name) for name in self.answers], need(row, self.votes)
        twos = list(itertools.combinations(answers, 2))
        if not isinstance(votes, list) or len(votes) != len(twos):
            raise Refused("not_a_list", f"`{self.votes}` is no list of {len(twos)} votes")
        return [self._pair(first, second, vote) for (first, second), vote in zip(twos, votes, strict=True)]

    def _pair(self, first: Any, second: Any, vote: Any) -> dict[str, Any] | Refused:
        if vote in (1, 2) and not isinstance(vote, bool):
            return {"chosen": first, "rejected": second} if vote == 1 else {"chosen": second, "rejected": first}
        is_tie = vote == 0 and not isinstance(vote, bool)
        return Refused("tie" if is_tie else "unknown_vote", f"`{self.votes}` holds the vote {short(vote)}")


def _passage(item: Any) -> str:
    """Return a passage as text: its title in a line of its own, and its sentences."""
    if not isinstance(item, list):
        return text_of(item, "passages")
    title, *sentences = [text_of(text, "passages") for text in item] or [""]
    return f"{title}\n{' '.join(sentences)}"


PUBLISHED: tuple[Form, ...] = (
    ArenaLists(
        name="arena-lists",
        about="winner_model_a, winner_model_b and winner_tie say which of response_a and response_b is chosen",
        needs=("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"),
    ),
    WholeSentences(
        name="minimal-pairs",
        about="sentence_good over sentence_bad; the words that both begin with are the prompt",
        needs=("sentence_good", "sentence_bad"),
        good="sentence_good",
        bad="sentence_bad",
    ),
    VotesOnTwos(
        name="qa-feedback",
        about="preference holds votes on every two of four predictions; the prompt is the question and its passages",
        needs=("question", "passages", "prediction 1", "prediction 4", "preference"),
        paths={"prompt": "question"},
        beside=("passages",),
        answers=("prediction 1", "prediction 2", "prediction 3", "prediction 4"),
        votes="preference",
    ),
)
