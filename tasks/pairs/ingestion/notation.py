"""Texts that are more than text: conversations written in JSON's or Python's notation, and rendered ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tasks.pairs.raw.cells import Refused, json_value

# how a text begins that may be a list of messages, a message, or numpy's form of a list; or JSON text of such a text
OPENING = re.compile(r"""\s*(?:array\(\s*|"\s*)?[\[({]""")
_BEGIN, _KEY = (
    r"""\s*(?:array\(\s*|"\s*)?[\[(]?\s*\{\s*""",
    r"""\\?["'](?:role|from|content|value|tool_calls|messages)\\?["']\s*:""",
)
_MESSAGE_KEY, _FIRST_KEY = re.compile(rf"{_BEGIN}[^{{}}\[\]]{{0,200}}?{_KEY}"), re.compile(_BEGIN + _KEY)
_NUMPY_ARRAY = re.compile(r"^\s*array\(|,\s*dtype=object\s*\)\s*$")
_NUMPY_GAP = re.compile(
    r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|\}\s+\{"""
)  # a text, or what stands between two objects
# the marks by which chat templates begin a turn
_TURN_MARKS = re.compile(
    r"<\|im_start\|>\s?(?:system|user|assistant|tool)\b|<\|start_header_id\|>|<start_of_turn>(?:user|model)\b"
    r"|<\|(?:system|user|assistant)\|>|<\|(?:START_OF_TURN_TOKEN|start_of_role)\|>|<\|start\|>(?:system|user|assistant)\b"
    r"|\A\s*(?:<s>)?\s*\[INST\]"
)
# what stands in a prompt for a part that is no text
_PLACEHOLDERS = re.compile(
    r"<\|?(?:image|img|picture|video|audio)[ _-]?(?:placeholder|token|pad|soft_token|\d+)(?:[ _-]?\d+)?\|?>"
    r"|<\|(?:image|img|vision|video|audio)(?:_(?:start|bos|begin))?\|>|<(?:start_of_image|image)>|\[IMG(?:_?\d+)?\]"
    r"|(?<!`)<(?P<element>video|audio)>(?!`|\s*(?:tag|element|HTML)s?\b)"
)
# how a text begins that is a transcript in any other form than Anthropic's
_USER_MARK = re.compile(r"\s*(?:#+ ?)?<?(?:human|user|prompter|instruction|question|q)>?\s*:", re.IGNORECASE)


def conversation_in(text: str, name: str, roles: dict[str, str]) -> Any:
    """Return the list of messages or the message that ``text`` spells, None where it is just text.

    Args:
        text: A prompt or a reply.
        name: Its column, for the error.
        roles: The names of roles, in lower case, that a message may have.

    Raises:
        Refused: It begins like a list of messages and cannot be read as one.
    """
    if not OPENING.match(text) or not _MESSAGE_KEY.match(text):
        return None
    value = _parse(text)
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        return value if all(_is_message(item, roles) for item in value["messages"]) else None
    if isinstance(value, dict | list):
        first = value[0] if isinstance(value, list) and value else value
        return value if _is_message(first, roles) else None
    if _is_json_and_prose(text) or not _FIRST_KEY.match(text):
        return None
    raise Refused(
        "serialised_conversation", f"`{name}` is a list of messages as text, and neither JSON nor Python can read it"
    )


def _parse(text: str) -> Any:
    value = json_value(text)
    if isinstance(value, str) and OPENING.match(value):  # JSON text of JSON text
        value = json_value(value)
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, str):  # numpy writes no commas between the objects of a list
        value = json_value(_NUMPY_GAP.sub(lambda match: match[1] or "}, {", _NUMPY_ARRAY.sub("", text)))
    return value


def _is_message(value: Any, roles: dict[str, str]) -> bool:
    if not isinstance(value, dict) or not ({"content", "value", "tool_calls"} & value.keys()):
        return False
    role = value.get("role", value.get("from"))
    return isinstance(role, str) and role.lower() in roles


def _is_json_and_prose(text: str) -> bool:
    """Tell whether ``text`` is a JSON value with words behind it, such as a question about that value."""
    try:
        json.JSONDecoder().raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return False
    return True


def refuse_rendered(text: str, name: str) -> None:
    """Refuse a reply that contains a whole rendered conversation.

    Raises:
        Refused: Naming the mark.
    """
    if ("<" in text or "[INST]" in text) and (mark := _TURN_MARKS.search(text)):
        detail = f"`{name}` contains {mark[0].strip()}, by which a chat template begins a turn"
        raise Refused("rendered_conversation", f"{detail}; give the conversation as a list of messages")


def refuse_lists(texts: Mapping[str, str]) -> None:
    """Refuse a row in which prompt and replies are all lists of texts, written as text.

    Args:
        texts: By column.

    Raises:
        Refused: They are.
    """
    if not all(text.lstrip().startswith("[") for text in texts.values()):
        return
    values = map(json_value, texts.values())
    if all(isinstance(value, list) and value and all(isinstance(item, str) for item in value) for value in values):
        shown = ", ".join(f"`{name}`" for name in texts)
        raise Refused("serialised_conversation", f"{shown} are lists of texts, written as text; give the texts alone")


def refuse_columns(cells: Mapping[str, Any]) -> None:
    """Refuse a row whose prompt and replies are lists of texts: it holds the columns of several rows.

    Args:
        cells: By column.

    Raises:
        Refused: They are.
    """
    if all(isinstance(cell, list) and cell and all(isinstance(item, str) for item in cell) for cell in cells.values()):
        shown = ", ".join(f"`{name}`" for name in cells)
        raise Refused("not_text", f"{shown} are lists of texts, the columns of several rows: write one row an object")


def refuse_placeholders(texts: Iterable[str]) -> None:
    """Refuse texts of a prompt in which a mark stands for a picture, a video or a sound.

    `<video>` and `<audio>` are such marks only outside of HTML and of words about it.

    Raises:
        Refused: Naming the mark.
    """
    for text in texts:
        if ("<" in text or "[IMG" in text) and (mark := _PLACEHOLDERS.search(text)):
            if mark["element"] and f"</{mark['element']}>" in text:
                continue
            detail = f"the prompt holds {mark[0]}, which stands for a part that is no text, and such parts are not read"
            raise Refused("not_text_part", f"{detail}; remove the mark where the text says all without it")


def refuse_transcripts(prompt: str, chosen: str, rejected: str) -> None:
    """Refuse replies that begin with a user's turn which repeats the prompt, as in `User: … Assistant: …`.

    Raises:
        Refused: Naming the mark of the turn.
    """
    asked = prompt.strip()
    if asked and asked in chosen and asked in rejected:
        marks = [_USER_MARK.match(text) for text in (chosen, rejected)]
        if marks[0] and marks[1] and marks[0][0].strip() == marks[1][0].strip():
            detail = f"both replies begin with a turn of the user, {marks[0][0].strip()}, that holds the prompt"
            raise Refused("rendered_conversation", f"{detail}; give the conversation as a list of messages")


def without_prompt(prompt: str, chosen: str, rejected: str) -> tuple[str, str] | None:
    """Return both replies without the prompt's text; None where one of them does not begin with it.

    A prompt of one word or of fewer than 8 letters is too short to tell a repetition from a coincidence.
    """
    start = prompt if chosen.startswith(prompt) else prompt.strip()
    if len(start) < 8 or not chosen.startswith(start) or not rejected.startswith(start) or len(start.split()) < 2:
        return None
    rests = chosen[len(start) :], rejected[len(start) :]
    if any(not rest.strip() or (start[-1].isalnum() and rest[0].isalnum()) for rest in rests):
        return None
    return rests
