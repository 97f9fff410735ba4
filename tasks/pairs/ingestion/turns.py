"""Messages as data sets write them, read into turns; and the order that turns must have."""

from __future__ import annotations

from typing import Any

from tasks.pairs.ingestion.notation import conversation_in
from tasks.pairs.raw.cells import Refused, is_blank, json_text, json_value, kind, short, text_of
from tasks.pairs.raw.column_names import shapes_prompt
from tasks.pairs.raw.transcripts import is_transcript, parse_transcript
from tasks.pairs.record.pair import Message

Turns = tuple[Message, ...]

_CALL = "function_call"  # ShareGPT's role of an assistant's turn that is a tool call
_SYNONYMS = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "model", "bot", "chatbot", "ai", _CALL),
    "tool": ("tool", "function", "observation", "ipython"),
}
ROLE_NAMES = {name: role for role, names in _SYNONYMS.items() for name in names}
_TEXT_KEYS = ("tool_call_id", "name", "reasoning_content", "reasoning", "thinking")  # texts that templates read
_CALL_KEYS = ("tool_calls", _CALL)
_READ = frozenset(("role", "from", "content", "value", *_TEXT_KEYS, *_CALL_KEYS))
_KEPT_OF_CALLS = ("id", "index")
_TEXT_PARTS = ("text", "input_text", "output_text")


def turns_of(value: Any, name: str, role: str) -> Turns:
    """Return a text, a message or a list of messages as turns; a bare text is by ``role``. Blank system turns go."""
    if isinstance(value, str):
        spelled = conversation_in(text_of(value, name), name, ROLE_NAMES)
        if spelled is None:
            is_whole = role == "assistant" and is_transcript(value)
            return parse_transcript(value) if is_whole else (Message(role, value),)
        value = spelled
    if not isinstance(value, dict | list):
        raise Refused("not_text", f"`{name}` is {kind(value)}")
    if isinstance(value, dict) and isinstance(value.get("messages"), list):  # an object around the list
        _refuse_unread(value, name)
        value = value["messages"]
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        raise Refused("not_text", f"`{name}` is a list of texts; `ingest.columns` can name one of them, as {name}.0")
    turns = [_message(item, name) for item in (value if isinstance(value, list) else [value])]
    return tuple(turn for turn in turns if turn.role != "system" or turn.content.strip())


def _message(value: Any, name: str) -> Message:
    if not isinstance(value, dict):
        raise Refused("not_text", f"`{name}` holds {kind(value)} where a message belongs")
    said = value["role"] if "role" in value else value.get("from")
    role = ROLE_NAMES.get(said.lower()) if isinstance(said, str) else None
    if role is None:
        who = f"a turn by {short(said)}" if said is not None else "an object without `role`"
        raise Refused("unknown_role", f"`{name}` holds {who}")
    content = value["content"] if "content" in value else value.get("value")
    if content is None and not any(key in value for key in _CALL_KEYS):
        raise Refused("not_text", f"`{name}` holds a message by {short(said)} without `content`")
    if len(value) == 2 and isinstance(content, str) and said != _CALL:
        return Message(role, text_of(content, name))

    _refuse_unread(value, name)
    calls: Any = content if said == _CALL else [value[key] for key in _CALL_KEYS if not is_blank(value.get(key))]
    extra: dict[str, Any] = {key: text_of(value[key], key) for key in _TEXT_KEYS if not is_blank(value.get(key))}
    if calls:
        extra["tool_calls"] = _tool_calls(calls, name)
        content = "" if said == _CALL or content is None else content
    return Message(role, content_text(content, name), json_text(extra, name) if extra else "")


def _refuse_unread(value: dict[str, Any], name: str) -> None:
    for key in value:
        if key not in _READ and _shapes(str(key)) and not (is_blank(value[key]) or isinstance(value[key], bool)):
            detail = f"`{name}` holds a message with `{key!s:.60}`, which nothing reads"
            raise Refused("unread_message_key", f"{detail}: delete it, if it does not belong to the prompt")


def _shapes(key: str) -> bool:
    return key == "refusal" or shapes_prompt(key)


def content_text(value: Any, name: str) -> str:
    """Return the text of a message: a text, or the joined parts of a list that holds nothing but text."""
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        return "".join(_part(part, name) for part in value)
    return text_of(value, name)


def _part(part: Any, name: str) -> str:
    if isinstance(part, str):
        return text_of(part, name)
    if not isinstance(part, dict):
        raise Refused("not_text_part", f"`{name}` has {kind(part)} among the parts of a message")
    others = [key for key in part if key not in ("type", "text") and _shapes(str(key)) and not is_blank(part[key])]
    shown = part.get("type", "text")
    if shown not in _TEXT_PARTS or others:
        raise Refused("not_text_part", f"`{name}` has a part of the type {short(others[0] if others else shown)}")
    return text_of(part.get("text"), name)


def _tool_calls(value: Any, name: str) -> list[dict[str, Any]]:
    """Return tool calls in the form that templates read: `{type, function: {name, arguments}}`, arguments as values."""
    value = json_value(value)
    if isinstance(value, list):
        return [call for item in value for call in _tool_calls(item, name)]
    if not isinstance(value, dict):
        raise Refused("bad_tool_calls", f"`{name}` has {kind(value)} where a tool call belongs")

    function = json_value(value.get("function", value))
    called = function.get("name") if isinstance(function, dict) else None
    arguments = json_value(function.get("arguments", function.get("parameters"))) if called else None
    if not isinstance(called, str) or isinstance(arguments, str | bool | int | float):
        raise Refused("bad_tool_calls", f"`{name}` has a tool call without a function's name and its arguments")
    unread = {*value, *function} - {"name", "arguments", "parameters", "function", "type", *_KEPT_OF_CALLS}
    if others := sorted(key for key in unread if not is_blank(value.get(key)) or not is_blank(function.get(key))):
        raise Refused("bad_tool_calls", f"`{name}` has a tool call with `{short(others[0])}`, which nothing reads")
    beside = {key: value[key] for key in _KEPT_OF_CALLS if value.get(key) is not None}
    return [{**beside, "type": "function", "function": {"name": called, "arguments": arguments or {}}}]


def check_turns(name: str, turns: Turns) -> None:
    """Refuse a conversation whose turns are out of order, or that ends with another turn than an assistant's."""
    before = ""
    for i, turn in enumerate(turns, start=1):
        if turn.role == before != "tool":
            more = (
                "; what replies go on with belongs into each of them, not into the prompt"
                if turn.role == "assistant"
                else ""
            )
            raise Refused("two_turns_of_one_role", f"{name}: turns {i - 1} and {i} are both by {turn.role}{more}")
        if turn.role == "tool" and before not in ("assistant", "tool"):
            raise Refused("tool_turn_without_call", f"{name}: turn {i} is by a tool, and no assistant called it")
        before = turn.role
    if not turns or turns[-1].role != "assistant":
        raise Refused("last_turn_not_assistant", f"{name} ends with {turns[-1].role if turns else 'no turn at all'}")
