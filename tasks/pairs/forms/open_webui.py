"""Open WebUI's export of feedback."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from tasks.pairs.forms.form import find, find_all, refuse_unread_keys
from tasks.pairs.forms.singles import Single, Singles
from tasks.pairs.raw.cells import Refused, is_blank, need
from tasks.pairs.record.pair import ABSENT


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
