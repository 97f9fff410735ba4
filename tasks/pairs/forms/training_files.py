"""Preference files of training services and trainers: conversations with two replies behind them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.pairs.forms.form import Form, refuse_unread_keys
from tasks.pairs.forms.ranked import Ranked
from tasks.pairs.raw.cells import Refused, is_blank, json_value, kind, need, short, text_of
from tasks.pairs.record.pair import Columns, get_field


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidates(Form):
    """Bedrock's preference file: the last message has two candidates, each with a label; texts stand in parts."""

    def is_of(self, row: Mapping[str, Any]) -> bool:
        """Tell whether the last message of a row has candidates."""
        turns = row.get("messages")
        return isinstance(turns, list) and bool(turns) and isinstance(turns[-1], dict) and "candidates" in turns[-1]

    def inner_paths(self) -> Iterator[str]:
        """Yield every path that the form reads."""
        yield "messages"

    def columns_given(self) -> tuple[str, ...]:
        """Return the standard columns that the rewritten rows have."""
        return ("prompt", *super().columns_given())

    def pairs(self, row: dict[str, Any]) -> list[dict[str, Any] | Refused]:
        """Return the messages before the candidates, and these in the order of their labels."""
        turns = need(row, "messages")
        candidates = get_field({"turn": turns[-1]}, "turn.candidates") if isinstance(turns, list) and turns else None
        replies: dict[str, Any] = {}
        for candidate in candidates if isinstance(candidates, list) else []:
            refuse_unread_keys(candidate, "messages.candidates", {"content", "preferenceLabel", *self.waived})
            label = candidate.get("preferenceLabel") if isinstance(candidate, dict) else None
            if label not in ("preferred", "non-preferred") or label in replies:
                detail = f"a candidate has the label {short(label)}, where one is preferred and one non-preferred"
                raise Refused("unknown_vote", detail)
            replies[label] = [{"role": "assistant", "content": candidate.get("content")}]
        if len(replies) != 2:
            raise Refused("unpaired", f"the last message has {len(replies)} candidates with a label")
        return [{"prompt": turns[:-1], "chosen": replies["preferred"], "rejected": replies["non-preferred"]}]


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


TRAINING_FILES: tuple[Form, ...] = (
    Candidates(
        name="bedrock",
        about="Bedrock's preference file: preferenceLabel names the better of the last message's candidates",
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
)
