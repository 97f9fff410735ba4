"""Forms of one answer a row, with a score, a rank or a thumb; answers to one prompt make pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from tasks.pairs.forms.form import Form, Paths, each, find, find_all, refuse_unread_keys
from tasks.pairs.forms.ranked import Pairing
from tasks.pairs.forms.votes import meanings_of, number_of, spelling
from tasks.pairs.raw.cells import Refused, is_blank, json_value, kind, need, short
from tasks.pairs.record.pair import ABSENT

_UP = ("up", "thumbs_up", "thumbs up", "thumbsup", "positive", "good", "like", "yes", "desirable", "👍")
_DOWN = ("down", "thumbs_down", "thumbs down", "thumbsdown", "negative", "bad", "dislike", "no", "undesirable", "👎")
THUMBS = meanings_of({"up": (True, 1, *_UP), "down": (False, 0, -1, *_DOWN)})


@dataclasses.dataclass(frozen=True)
class Single:
    """An answer of one row.

    Attributes:
        common: What else the row says, under the standard columns.
        reply: The answer; the mark for none where the row is a score alone.
        value: Its score (the higher, the better), or up or down for a thumb; None where it stands in another row.
        key: What joins an answer to its scores; empty for nothing.
    """

    common: dict[str, Any]
    reply: Any
    value: float | str | None
    key: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Singles(Form):
    """One answer a row.

    Attributes:
        text: Where the answer stands; empty where the row is a score alone.
        value: Where its score, rank or thumb stands; a list of objects has a value and a name each.
        measure: What the value is.
        values: What each thumb's spelling means.
        key: What joins an answer to scores in other rows.
        pairing: Which answers of one prompt make pairs; of thumbs, every up with every down for `all_pairs`, else each
            thumb once.
        min_gap: The least difference of two scores.
    """

    text: Paths = ""
    value: Paths = ""
    measure: Literal["score", "rank", "thumb"] = "thumb"
    values: Mapping[str, str] = dataclasses.field(default_factory=lambda: THUMBS)
    key: Paths = ""
    pairing: Pairing = "best_worst"
    min_gap: float = 0.0

    def inner_paths(self) -> Iterator[str]:
        """Yield every path that the form reads."""
        yield from super().inner_paths()
        for paths in (self.text, self.value, self.key):
            yield from filter(None, each(paths))

    def singles(self, row: dict[str, Any]) -> list[Single | dict[str, Any]]:
        """Return the answers of a row, or whole pairs where it holds some.

        Raises:
            Refused: The row holds no answer with a value.
        """
        key = find(row, self.key) if self.key else ""
        reply = self.reply(row) if self.text else ABSENT
        return [Single(self.common(row), reply, self.value_of(row), "" if is_blank(key) else str(key))]

    def reply(self, row: dict[str, Any]) -> Any:
        """Return the row's answer."""
        value = find(row, self.text)
        return need(row, each(self.text)[0]) if value is ABSENT else value

    def value_of(self, row: dict[str, Any]) -> float | str | None:
        """Return the score or thumb of a row; None where a score may stand in another row."""
        value = find(row, self.value) if self.value else ABSENT
        if is_blank(value):
            if self.key:
                return None
            if value is ABSENT:
                need(row, each(self.value)[0])
            raise Refused("no_vote", f"`{each(self.value)[0]}` holds no vote")
        return self.meaning(_one_score(value, each(self.value)[0]))

    def meaning(self, value: Any) -> float | str:
        """Return a number of which the higher is the better, or `up` or `down`."""
        name = each(self.value)[0]
        if self.measure != "thumb":
            if isinstance(value, str) and spelling(value) in self.values:
                detail = f"`{name}` is {short(value)}, which is no number but a thumb"
                raise Refused("bad_score", f"{detail}: name both thumbs in `ingest.votes`, as `up` and `down`")
            return number_of(value, name) * (1 if self.measure == "score" else -1)
        meaning = None if isinstance(value, dict | list) else self.values.get(spelling(value))
        if meaning not in ("up", "down"):
            raise Refused("unknown_vote", f"`{name}` is {short(value)}, no known thumb: name it in `ingest.votes`")
        return meaning


def _one_score(value: Any, name: str) -> Any:
    """Return the value of the one score in a list or mapping of scores; among several, of the one that a user gave."""
    if isinstance(value, dict):
        value = [{"name": key, **item} for key, item in value.items() if isinstance(item, dict)]
    if not isinstance(value, list):
        return value
    scores = {str(item.get("name", item.get("key"))): item for item in value if isinstance(item, dict)}
    if len(scores) > 1:
        by_users = {key: item for key, item in scores.items() if any(word in key.lower() for word in ("user", "thumb"))}
        if len(by_users) != 1:
            detail = f"`{name}` holds scores of {len(scores)} kinds ({', '.join(scores)[:80]})"
            raise Refused("unknown_vote", f"{detail}: name one as `ingest.columns.score`, such as {name}.0.value")
        scores = by_users
    for item in scores.values():
        return next((item[key] for key in ("value", "score", "avg") if not is_blank(item.get(key))), None)
    raise Refused("no_vote", f"`{name}` holds no score")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversations(Singles):
    """A conversation that ends with the answer."""

    def singles(self, row: dict[str, Any]) -> list[Single | dict[str, Any]]:
        """Return the last turn as the answer, and the turns before as the prompt."""
        turns = json_value(need(row, each(self.text)[0]))
        if not isinstance(turns, list) or len(turns) < 2:
            raise Refused("not_a_list", f"`{each(self.text)[0]}` is {kind(turns)}, and no list of two messages or more")
        return [Single({**self.common(row), "prompt": turns[:-1]}, turns[-1:], self.value_of(row))]

    def columns_given(self) -> tuple[str, ...]:
        """Return the standard columns that the rewritten rows have."""
        return ("prompt", *super().columns_given())


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenWebUI(Singles):
    """Open WebUI's feedback: a thumb on a message of a chat, of which the export holds a copy."""

    def inner_paths(self) -> Iterator[str]:
        """Yield every path that the form reads."""
        yield from ("snapshot", "data", "meta")

    def columns_given(self) -> tuple[str, ...]:
        """Return the standard columns that the rewritten rows have."""
        return ("prompt", "system", *super().columns_given())

    def singles(self, row: dict[str, Any]) -> list[Single | dict[str, Any]]:
        """Return the rated answer; in the arena, pairs of it and its siblings."""
        chat = need(row, "snapshot.chat.chat")
        refuse_unread_keys(chat, "snapshot.chat.chat", {"history", *self.waived})
        messages = need(row, "snapshot.chat.chat.history.messages")
        name = str(need(row, "meta.message_id"))
        rated = messages.get(name) if isinstance(messages, dict) else None
        if not isinstance(rated, dict):
            raise Refused("unpaired", "the chat does not hold the message that was rated")
        thumb = self.meaning(need(row, "data.rating"))
        common = {**self.common(row), "prompt": _turns_before(messages, rated), "system": _system(chat)}
        reply = [_turn(rated)]
        others = [[_turn(sibling)] for sibling in _siblings(messages, name)] if _is_arena(row) else []
        if others:
            pairs = [(reply, other) if thumb == "up" else (other, reply) for other in others]
            return [{**common, "chosen": chosen, "rejected": rejected} for chosen, rejected in pairs]
        return [Single(common, reply, thumb)]


def _is_arena(row: dict[str, Any]) -> bool:
    return bool(find_all(row, "data.sibling_model_ids")) or find(row, "meta.arena") is True


def _siblings(messages: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the other answers to the same message."""
    parent = messages[name].get("parentId")
    return [
        message
        for key, message in messages.items()
        if key != name and isinstance(message, dict) and message.get("parentId") == parent
        if message.get("role") == "assistant" and not is_blank(message.get("content"))
    ]


def _turns_before(messages: dict[str, Any], message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the turns that lead to a message, from the first."""
    turns: list[dict[str, Any]] = []
    parent, seen = message.get("parentId"), {id(message)}
    while isinstance(above := messages.get(str(parent)), dict):
        if id(above) in seen:
            raise Refused("not_a_list", "the messages of the chat run in a circle")
        seen.add(id(above))
        turns.insert(0, _turn(above))
        parent = above.get("parentId")
    return turns


def _turn(message: dict[str, Any]) -> dict[str, Any]:
    if not is_blank(message.get("files")):
        raise Refused("not_text_part", "a message of the chat has `files`")
    return {"role": message.get("role"), "content": message.get("content")}


def _system(chat: Any) -> Any:
    """Return the chat's system prompt."""
    value = find(chat, ("params.system", "system")) if isinstance(chat, dict) else ABSENT
    return None if value is ABSENT else value


SINGLES: tuple[Singles, ...] = (
    Singles(
        name="kto",
        about="completion with the thumb in label; opposite thumbs on one prompt are a pair",
        needs=("prompt", "completion", "label"),
        text="completion",
        value="label",
    ),
    *(
        Conversations(
            name=f"kto-{turns}",
            about=f"the last turn of {turns} with the thumb in {label}; opposite thumbs on one prompt are a pair",
            needs=(turns, label),
            text=turns,
            value=label,
        )
        for turns, label in (
            ("messages", "label"),
            ("messages", "kto_tag"),
            ("conversations", "label"),
            ("conversations", "kto_tag"),
        )
    ),
    Singles(
        name="kto-output",
        about="output with the thumb in kto_tag; opposite thumbs on one prompt are a pair",
        needs=("instruction", "output", "kto_tag"),
        text="output",
        value="kto_tag",
    ),
    OpenWebUI(
        name="open-webui",
        about="thumbs on messages; a rated answer and its arena siblings, or opposite thumbs on one prompt, are a pair",
        needs=("data.rating", "meta.message_id", "snapshot.chat"),
        value="data.rating",
        values=meanings_of({"up": (1,), "down": (-1,)}),
    ),
    Singles(
        name="langsmith",
        about="outputs of runs with the score of users in feedback_stats; opposite ones on one prompt are a pair",
        needs=("id", "run_type", "inputs", "outputs"),
        paths={
            "prompt": ("inputs.messages", "inputs.input", "inputs.question", "inputs.query", "inputs.prompt"),
            "history": ("inputs.chat_history", "inputs.history"),
            "tools": "inputs.tools",
            "documents": "inputs.documents",
            "system": ("inputs.system", "inputs.system_prompt"),
        },
        text=("outputs.choices.0.message", "outputs.output", "outputs.answer", "outputs.content", "outputs.text"),
        value="feedback_stats",
        key="id",
    ),
    Singles(
        name="langsmith-feedback",
        about="scores of runs, joined by run_id",
        needs=("run_id", "key", "score"),
        value="score",
        key="run_id",
    ),
    Singles(
        name="langfuse",
        about="output of traces with the score of users in scores; opposite ones on one prompt are a pair",
        needs=("id", "input", "output", "scores"),
        paths={"prompt": ("input.messages", "input"), "tools": "input.tools"},
        text="output",
        value="scores",
        key="id",
    ),
    Singles(
        name="langfuse-traces",
        about="output of traces, joined with scores by id",
        needs=("id", "input", "output", "timestamp"),
        paths={"prompt": ("input.messages", "input"), "tools": "input.tools"},
        text="output",
        key="id",
    ),
    *(
        Singles(
            name=f"langfuse-scores-{key}",
            about=f"scores of traces, joined by {key}",
            needs=(key, "name", "value"),
            value="value",
            key=key,
        )
        for key in ("traceId", "trace_id")
    ),
    Singles(
        name="helpsteer2",
        about="responses of one prompt by helpfulness",
        needs=("prompt", "response", "helpfulness", "verbosity"),
        text="response",
        value="helpfulness",
        measure="score",
    ),
)
