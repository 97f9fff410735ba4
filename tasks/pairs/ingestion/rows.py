"""From a row as it was published to a pair, or to the one reason why it holds none.

Understood are: prompt, chosen and rejected as text; as message lists (role and content, or ShareGPT's
from and value, with `conversations` for the prompt); message lists without a prompt, which share
their beginning; and Anthropic's transcripts.
"""

from __future__ import annotations

import itertools
import math
import re
from decimal import Decimal
from numbers import Real
from typing import Any

from tasks.core.files import canonical_json
from tasks.pairs.ingestion.formats import RawRow
from tasks.pairs.ingestion.transcripts import is_transcript, parse_transcript
from tasks.pairs.record.pair import ABSENT, Columns, Message, Pair, Prompt, Rejection, get_field

_ROLE_NAMES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
_SMALLEST, _LARGEST = 2.0**-126, 2.0**127 * (2 - 2.0**-23)  # normal numbers of float32, which training works with

Turns = tuple[Message, ...]


class _Refused(Exception):
    """A row's one reason, on its way out of the functions below."""

    def __init__(self, reason: str, detail: str, column: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.column = reason, detail, column


def parse_row(row: RawRow, columns: Columns) -> Pair | Rejection:
    """Return the pair that a row holds, or why it holds none."""
    try:
        if row.fault:
            raise _Refused("broken_row", row.fault)
        if not isinstance(row.value, dict):
            raise _Refused("not_an_object", f"the row is {_kind(row.value)}")
        prompt, chosen, rejected = _read(row.value, columns)
        _check_replies(chosen, rejected)
        weight = _weight(row.value, columns)
        margin = _number(row.value, columns.margin, Columns.margin, "bad_margin", absent=0.0)
        return Pair(prompt, chosen, rejected, _slice(row.value, columns), row.where, weight, margin)
    except _Refused as refusal:
        return Rejection(row.where, refusal.reason, refusal.detail, refusal.column)


def _read(row: dict[str, Any], columns: Columns) -> tuple[Prompt, str, str]:
    """Return prompt, chosen and rejected of whichever form the row has."""
    chosen, rejected = _need(row, columns.chosen), _need(row, columns.rejected)
    prompt = _find_prompt(row, columns)
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is ABSENT:
            return _read_transcripts(chosen, rejected, columns)
        if isinstance(prompt, str):
            return _text(prompt, columns.prompt), _text(chosen, columns.chosen), _text(rejected, columns.rejected)
    before = () if prompt is ABSENT else _turns(prompt, columns.prompt, "user")
    return _join(
        _conversation(before, _turns(chosen, columns.chosen, "assistant"), prompt),
        _conversation(before, _turns(rejected, columns.rejected, "assistant"), prompt),
    )


def _need(row: dict[str, Any], column: str) -> Any:
    value = get_field(row, column)
    if value is ABSENT:
        raise _Refused("missing_column", f"no column `{column}`", column)
    return value


def _find_prompt(row: dict[str, Any], columns: Columns) -> Any:
    """Return the prompt column, else ShareGPT's `conversations`, else the mark for none."""
    if columns.prompt != Columns.prompt:
        return _need(row, columns.prompt)
    prompt = get_field(row, columns.prompt)
    return get_field(row, "conversations") if prompt is ABSENT else prompt


def _read_transcripts(chosen: str, rejected: str, columns: Columns) -> tuple[Prompt, str, str]:
    for text, name in ((chosen, columns.chosen), (rejected, columns.rejected)):
        if not is_transcript(_text(text, name)):
            detail = f"there is no `{columns.prompt}`, and `{name}` does not begin with a turn's mark"
            raise _Refused("not_a_transcript", detail, columns.prompt)
    return _join(parse_transcript(chosen), parse_transcript(rejected))


def _turns(value: Any, name: str, role: str) -> Turns:
    """Return a text, a message or a list of messages as turns; a bare text is by ``role``."""
    if isinstance(value, str):
        return (Message(role, _text(value, name)),)
    if isinstance(value, dict):
        return (_message(value, name),)
    if isinstance(value, list):
        return tuple(_message(item, name) for item in value)
    raise _Refused("not_text", f"`{name}` is {_kind(value)}")


def _message(value: Any, name: str) -> Message:
    if not isinstance(value, dict):
        raise _Refused("not_text", f"`{name}` holds {_kind(value)} where a message belongs")
    if value.get("tool_calls"):
        raise _Refused("not_text", f"`{name}` holds a message that calls tools")
    role = value["role"] if "role" in value else value.get("from")
    content = value["content"] if "content" in value else value.get("value")
    if not isinstance(role, str) or role not in _ROLE_NAMES:
        raise _Refused("unknown_role", f"`{name}` holds a turn by {_short(role)}")
    return Message(_ROLE_NAMES[role], _text(content, name))


def _text(value: Any, name: str) -> str:
    """Return ``value`` if it is text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise _Refused("not_text", f"`{name}` is {_kind(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Refused("not_text", f"`{name}` holds half of a surrogate pair") from None
    return value


def _conversation(before: Turns, reply: Turns, prompt: Any) -> Turns:
    """Return the whole conversation of one branch; the reply's list may repeat the prompt or not."""
    if before and len(reply) > len(before) and reply[: len(before)] == before:
        return reply
    if isinstance(prompt, str) and len(reply) > 1:
        # a text prompt beside whole conversations (UltraFeedback's form) must be one of their questions
        if not any(turn == before[0] for turn in reply[:-1]):
            raise _Refused("prompts_differ", "the prompt's text is no turn of the conversation")
        return reply
    return before + reply


def _join(chosen: Turns, rejected: Turns) -> tuple[Prompt, str, str]:
    """Split two whole conversations into what they share and their last turns."""
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        _check_turns(name, turns)
    prompt, reply, other = chosen[:-1], chosen[-1], rejected[-1]
    if prompt != rejected[:-1]:
        raise _Refused(
            "prompts_differ", f"chosen has {len(chosen)} turns, rejected {len(rejected)}, not alike before the last"
        )
    if not any(turn.content.strip() for turn in prompt):
        raise _Refused("empty_prompt", f"{len(prompt)} turns before the reply, none with text")
    return prompt, reply.content, other.content


def _check_turns(name: str, turns: Turns) -> None:
    for i, (turn, following) in enumerate(itertools.pairwise(turns), start=1):
        if turn.role == following.role:
            raise _Refused("two_turns_of_one_role", f"{name}: turns {i} and {i + 1} are both by {turn.role}")
    if not turns or turns[-1].role != "assistant":
        raise _Refused("last_turn_not_assistant", f"{name} ends with {turns[-1].role if turns else 'no turn at all'}")


def _check_replies(chosen: str, rejected: str) -> None:
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            raise _Refused(f"empty_{name}", f"the {name} reply has no text")
    if chosen == rejected:
        raise _Refused("identical_replies", "chosen and rejected are the same text")


def _slice(row: dict[str, Any], columns: Columns) -> str | None:
    value = _optional(row, columns.slice, Columns.slice)
    if value is None or isinstance(value, str):
        return None if value is None else _text(value, columns.slice)
    if isinstance(value, float) and math.isnan(value):
        return None  # what pandas writes where there is nothing
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return canonical_json(value)
    raise _Refused("not_text", f"`{columns.slice}` is {_kind(value)}")


def _weight(row: dict[str, Any], columns: Columns) -> float:
    """Return how much the row counts; 1 where it does not say."""
    value = _number(row, columns.weight, Columns.weight, "bad_weight", absent=1.0)
    if value < _SMALLEST:
        detail = f"`{columns.weight}` is {value}, and a weight is above 0: a row that should not count is left out"
        raise _Refused("bad_weight", detail)
    return value


def _number(row: dict[str, Any], column: str | None, usual: str | None, reason: str, absent: float) -> float:
    """Return a column's number, which CSV spells as text; ``absent`` where there is none."""
    value = None if column is None else _optional(row, column, usual)
    if value is None or value == "":
        return absent
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value.strip())  # float takes fewer spaces than a pattern: not U+001D
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise _Refused(reason, f"`{column}` is {_kind(value)}, and no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) <= _LARGEST:  # NaN is refused too
        raise _Refused(reason, f"`{column}` is {_short(value)}, and no finite number of 32 bits")
    return number


def _optional(row: dict[str, Any], column: str, usual: str | None) -> Any:
    """Return a column that rows may lack, unless it was given another name than the usual one."""
    if column != usual:
        return _need(row, column)
    value = get_field(row, column)
    return None if value is ABSENT else value


def _kind(value: Any) -> str:
    """Name what a value is, in JSON's words; a number or a constant is shown as it stands."""
    if value is None or isinstance(value, bool | int | float):
        return f"the JSON value {_short(value)}"
    names: dict[type, str] = {dict: "an object", list: "a list", str: "text"}
    return names.get(type(value), type(value).__name__)


def _short(value: Any) -> str:
    """Show a value in JSON's spelling, cut to 60 characters."""
    text = {"True": "true", "False": "false", "None": "null"}.get(str(value), repr(value))
    return text if len(text) <= 60 else text[:57] + "..."
