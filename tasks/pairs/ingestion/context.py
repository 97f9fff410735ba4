"""What a prompt is made of beside its question: the columns of system, history, tools and documents, and Alpaca's."""

from __future__ import annotations

import dataclasses
from typing import Any

from tasks.pairs.ingestion.turns import Turns, content_text, turns_of
from tasks.pairs.raw.cells import Refused, is_blank, json_text, json_value, kind, need, optional, text_of
from tasks.pairs.record.pair import Columns, Message, get_field


@dataclasses.dataclass(frozen=True)
class Context:
    """What stands before a row's question.

    Attributes:
        system: The system prompt; empty for none.
        history: Earlier turns.
        inputs: Tools and documents, as :attr:`Pair.inputs`.
    """

    system: str = ""
    history: Turns = ()
    inputs: str = ""

    def __bool__(self) -> bool:
        return bool(self.system or self.history or self.inputs)


def read_context(row: dict[str, Any], columns: Columns) -> Context:
    """Return what the row says beside its prompt and its replies."""
    lists = {name: _objects(row, getattr(columns, name), name) for name in ("documents", "tools")}
    inputs = {name: value for name, value in lists.items() if value}
    texts = json_text(inputs, " and ".join(inputs)) if inputs else ""
    return Context(_system(row, columns), _history(row, columns), texts)


def _system(row: dict[str, Any], columns: Columns) -> str:
    texts = {}
    for name in columns.system_names:
        value = optional(row, name, None if name == columns.system != Columns.system else name)
        if not is_blank(value):
            text = content_text(value, name)
            texts[text.strip()] = text
    if len(texts) > 1:
        raise Refused("two_system_prompts", f"{' and '.join(columns.system_names)} hold different texts")
    return next(iter(texts.values()), "")


def _history(row: dict[str, Any], columns: Columns) -> Turns:
    """Return earlier turns: a list of messages, or of pairs of a user's and an assistant's text."""
    name = columns.history
    value = json_value(optional(row, name, Columns.history)) if name else None
    if name is None or is_blank(value):
        return ()
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return turns_of(value, name, "user")
    turns: list[Message] = []
    for item in value if isinstance(value, list) else [None]:
        if not isinstance(item, list | tuple) or len(item) != 2:
            raise Refused("bad_context", f"`{name}` is no list of messages or of pairs of a question and an answer")
        turns += [Message("user", text_of(item[0], name)), Message("assistant", text_of(item[1], name))]
    return tuple(turns)


def _objects(row: dict[str, Any], name: str | None, usual: str) -> list[Any]:
    """Return a list of objects, which may be written as JSON text."""
    value = json_value(optional(row, name, usual)) if name else None
    if name is None or is_blank(value):
        return []
    items = [json_value(item) for item in value] if isinstance(value, list) else [value]
    for item in items:
        if not isinstance(item, dict):
            raise Refused("bad_context", f"`{name}` holds {kind(item)} where an object belongs")
    return items


def find_prompt(row: dict[str, Any], columns: Columns) -> Any:
    """Return the prompt: its column, or what stands in its place; the mark for none where there is none.

    In its place stand `conversations` (ShareGPT), instruction and input (Alpaca), and question or query.
    """
    pieces = _alpaca(row, columns)
    if columns.prompt in (columns.instruction, columns.input) and pieces:
        return _joined(pieces)
    given = {
        columns.prompt: need(row, columns.prompt)
        if columns.prompt != Columns.prompt
        else get_field(row, columns.prompt)
    }
    given |= {name: get_field(row, name) for name in columns.questions}
    filled = {name: value for name, value in given.items() if not is_blank(value)}
    if not filled:
        return _joined(pieces) if pieces else given[columns.prompt]

    name, prompt = next(iter(filled.items()))
    for other, text in {**filled, **pieces}.items():
        if other != name and not _contains(prompt, text):
            advice = f"name one of them as `ingest.columns.prompt`, and the other under `ingest.ignore`: [{other}]"
            raise Refused("two_prompts", f"`{name}` and `{other}` both hold a prompt; {advice}")
    return prompt


def _alpaca(row: dict[str, Any], columns: Columns) -> dict[str, Any]:
    """Return the values of instruction and input, where there are any."""
    pieces: dict[str, Any] = {}
    for name, usual in ((columns.instruction, "instruction"), (columns.input, "input")):
        value = optional(row, name, usual) if name else None
        is_opened = any(path.startswith(f"{name}.") for path in (columns.prompt, columns.chosen, columns.rejected))
        if name and not is_blank(value) and not is_opened:
            pieces[name] = value
    return pieces


def _joined(pieces: dict[str, Any]) -> Any:
    """Return one piece as it is; instruction and input as one text, a line feed between them."""
    if len(pieces) == 1:
        return next(iter(pieces.values()))
    return "\n".join(text_of(value, name) for name, value in pieces.items())


def _contains(prompt: Any, text: Any) -> bool:
    """Tell whether the prompt holds this value as a text, or in one of its messages."""
    if isinstance(prompt, list):
        return prompt == text or any(
            _contains(value, text) for turn in prompt if isinstance(turn, dict) for value in turn.values()
        )
    return prompt == text or (isinstance(prompt, str) and isinstance(text, str) and text.strip() in prompt)
