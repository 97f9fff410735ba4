"""Schemas that take more than a table's entry: a function each."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.pairs.forms.form import Form, find
from tasks.pairs.forms.ranked import Ranked
from tasks.pairs.raw.cells import Refused, is_blank, json_value, kind, need, short, text_of
from tasks.pairs.record.pair import ABSENT, Columns, get_field


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelStudio(Form):
    """Label Studio's export: `selected` is left or right, and `to_name` names the two answers in `data`."""

    def inner_paths(self) -> Iterator[str]:
        """Yield every path that the form reads."""
        yield from super().inner_paths()
        yield "annotations"

    def pairs(self, row: dict[str, Any]) -> list[dict[str, Any] | Refused]:
        """Return the pair that most annotators chose."""
        votes = Counter(self._votes(row))
        if not votes:
            raise Refused("no_vote", "`annotations` holds no pairwise result that was not cancelled")
        ranking = votes.most_common()
        if len(ranking) > 1 and ranking[0][1] == ranking[1][1]:
            raise Refused("tie", "as many annotators chose the one answer as the other")
        chosen, rejected = ranking[0][0]
        return [{"chosen": need(row, f"data.{chosen}"), "rejected": need(row, f"data.{rejected}")}]

    def _votes(self, row: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield the names of the better and the worse answer of each annotator."""
        annotations = need(row, "annotations")
        for annotation in annotations if isinstance(annotations, list) else []:
            if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
                continue
            for result in annotation.get("result") or []:
                if isinstance(result, dict) and result.get("type") == "pairwise":
                    yield _sides(result)


def _sides(result: dict[str, Any]) -> tuple[str, str]:
    names = str(result.get("to_name", "")).split(",")
    selected = get_field(result, "value.selected")
    if len(names) != 2 or selected not in ("left", "right"):
        shown = None if selected is ABSENT else selected
        raise Refused("unknown_vote", f"`annotations` selects {short(shown)} of {len(names)} answers")
    left, right = (name.strip() for name in names)
    return (left, right) if selected == "left" else (right, left)


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
class Vertex(Ranked):
    """Gemini's preference file: contents, and completions with a score; a message's text stands in `parts`."""

    def common(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the prompt and the system turn with `content` for `parts`."""
        common = super().common(row)
        common["prompt"] = _with_content(common.get("prompt"))
        system = _with_content(common.pop("system", None))
        parts = system.get("content") if isinstance(system, dict) else system
        if not is_blank(parts):
            common["system"] = "".join(
                text_of(part.get("text") if isinstance(part, dict) else part, "system_instruction")
                for part in (parts if isinstance(parts, list) else [parts])
            )
        return common

    def pairs(self, row: dict[str, Any]) -> list[dict[str, Any] | Refused]:
        """Return the pairs that the scores make, with `content` for `parts`."""
        return [
            pair if isinstance(pair, Refused) else {name: _with_content(value) for name, value in pair.items()}
            for pair in super().pairs(row)
        ]


def _with_content(value: Any) -> Any:
    """Return messages with their `parts` as `content`."""
    if isinstance(value, list):
        return [_with_content(item) for item in value]
    if isinstance(value, dict) and "parts" in value:
        return {"content" if key == "parts" else key: item for key, item in value.items()}
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class OtherReply(Form):
    """A conversation that ends with the chosen reply, and another reply beside it.

    Attributes:
        messages: Where the conversation stands.
        reply: Where the other reply stands.
    """

    messages: str
    reply: str

    def columns(self, columns: Columns) -> Columns:
        """Return what the columns of the rewritten rows are called; the prompt is a part of the conversation."""
        renamed = super().columns(columns)
        return dataclasses.replace(renamed, prompt=Columns.prompt) if columns.prompt == self.messages else renamed

    def inner_paths(self) -> Iterator[str]:
        """Yield every path that the form reads."""
        yield from super().inner_paths()
        yield from (self.messages, self.reply)

    def pairs(self, row: dict[str, Any]) -> list[dict[str, Any] | Refused]:
        """Return the conversation, and the same one with the other reply."""
        turns, reply = json_value(need(row, self.messages)), need(row, self.reply)
        if not isinstance(turns, list) or not turns:
            raise Refused("not_a_list", f"`{self.messages}` is {kind(turns)}, and no list of messages")
        other = [{"role": "assistant", "content": reply}] if isinstance(reply, str) else reply
        return [{"chosen": turns, "rejected": [*turns[:-1], *(other if isinstance(other, list) else [other])]}]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskedInMessages(Form):
    """A chosen and a rejected reply, and the conversation before them in a column of messages."""

    def is_of(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a row has such a column in place of a prompt, and replies that are no whole conversations."""
        chosen = json_value(row.get("chosen"))
        is_whole = isinstance(chosen, list) and len(chosen) > 1
        return super().is_of(row) and "prompt" not in row and not is_whole


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


EXPORTS: tuple[Form, ...] = (
    LabelStudio(
        name="label-studio",
        about="`selected` in annotations says which of the answers in data is chosen; the majority counts",
        needs=("annotations", "data"),
        paths={
            "prompt": ("data.prompt", "data.question", "data.instruction", "data.text", "data.messages"),
            "system": ("data.system", "data.system_prompt"),
        },
        beside=("predictions",),
    ),
    ArenaLists(
        name="arena-lists",
        about="winner_model_a, winner_model_b and winner_tie say which of response_a and response_b is chosen",
        needs=("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"),
    ),
    Vertex(
        name="vertex",
        about="Gemini's preference file: completions by score",
        needs=("contents", "completions.0.score", "completions.0.completion"),
        paths={"prompt": "contents", "system": ("system_instruction", "systemInstruction")},
        answers="completions",
        text="completion",
        score="score",
    ),
    OtherReply(
        name="ms-swift",
        about="the conversation in messages over the same one with rejected_response",
        needs=("messages", "rejected_response"),
        messages="messages",
        reply="rejected_response",
    ),
    *(
        OtherReply(
            name=f"{turns}/rejected",
            about=f"the conversation in {turns} over the same one with the reply in rejected",
            needs=(turns, "rejected"),
            messages=turns,
            reply="rejected",
        )
        for turns in ("messages", "conversations")
    ),
    *(
        AskedInMessages(
            name=f"{turns}-chosen-rejected",
            about=f"chosen over rejected, as replies to the conversation in {turns}",
            needs=(turns, "chosen", "rejected"),
            paths={"prompt": turns, "chosen": "chosen", "rejected": "rejected"},
        )
        for turns in ("messages", "conversation")
    ),
    Form(
        name="ms-swift-messages",
        about="the conversation in messages over the one in rejected_messages",
        needs=("messages", "rejected_messages"),
        paths={"chosen": "messages", "rejected": "rejected_messages"},
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
