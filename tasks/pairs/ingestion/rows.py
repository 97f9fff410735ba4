"""From a row as it was published to a pair, or to the one reason why it holds none.

Understood are: prompt, chosen and rejected as text; as message lists (role and content, or ShareGPT's
from and value, with `conversations` for the prompt), also where these are written as text; message lists without a
prompt, which share their beginning; Anthropic's transcripts; and Alpaca's columns.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from tasks.pairs.ingestion.context import Context, find_prompt, read_context
from tasks.pairs.ingestion.notation import (
    OPENING,
    conversation_in,
    refuse_columns,
    refuse_lists,
    refuse_placeholders,
    refuse_rendered,
    refuse_transcripts,
    without_prompt,
)
from tasks.pairs.ingestion.turns import ROLE_NAMES, Turns, check_turns, turns_of
from tasks.pairs.raw.cells import Refused, kind, need, read_number, read_slice, read_weight, text_of
from tasks.pairs.raw.raw_row import RawRow
from tasks.pairs.raw.transcripts import is_transcript, with_first_mark
from tasks.pairs.record.pair import ABSENT, Columns, Message, Pair, get_field
from tasks.pairs.record.rejection import Rejection

_NO_CONTEXT = Context()
_MARK = "\n\nHuman:"


def parse_row(row: RawRow, columns: Columns) -> Pair | Rejection:
    """Return the pair that a row holds, or why it holds none."""
    try:
        if row.fault:
            raise Refused("broken_row", row.fault)
        value = row.value
        if not isinstance(value, dict):
            raise Refused("not_an_object", f"the row is {kind(value)}")
        if columns.is_bare(value):  # most rows: nothing but a prompt and two replies
            return _plain_pair(value, columns, row.where) or _read(value, columns, _NO_CONTEXT, row.where)
        pair = _read(value, columns, read_context(value, columns), row.where)
        return dataclasses.replace(
            pair,
            slice=read_slice(value, columns),
            weight=read_weight(value, columns),
            margin=read_number(value, columns.margin, Columns.margin, "bad_margin", absent=0.0),
        )
    except Refused as refusal:
        return Rejection(row.where, refusal.reason, refusal.detail, refusal.column)


def _plain_pair(row: dict[str, Any], columns: Columns, where: str) -> Pair | None:
    """Return the pair of three texts that are clearly nothing else; None where a closer look is needed."""
    prompt, chosen, rejected = row.get(columns.prompt), row.get(columns.chosen), row.get(columns.rejected)
    if type(prompt) is not str or type(chosen) is not str or type(rejected) is not str or chosen == rejected:
        return None
    for text in (prompt, chosen, rejected):
        if not text.isascii() or "<" in text or "[" in text or "{" in text or _MARK in text:
            return None
    if not chosen or not rejected or chosen.isspace() or rejected.isspace() or prompt.strip() in chosen:
        return None
    return Pair(prompt, chosen, rejected, None, where)


def _read(row: dict[str, Any], columns: Columns, context: Context, where: str) -> Pair:
    """Return the pair of whichever form the row has, without its slice and numbers."""
    chosen, rejected = need(row, columns.chosen), need(row, columns.rejected)
    prompt = get_field(row, columns.prompt) if context is _NO_CONTEXT else find_prompt(row, columns)
    if prompt is ABSENT and columns.prompt != Columns.prompt:
        need(row, columns.prompt)

    refuse_columns({columns.prompt: prompt, columns.chosen: chosen, columns.rejected: rejected})
    prompt, chosen = _unfold(prompt, columns.prompt), _unfold(chosen, columns.chosen)
    rejected = _unfold(rejected, columns.rejected)

    is_removed = False
    if isinstance(chosen, str) and isinstance(rejected, str):
        if isinstance(prompt, str):
            refuse_lists({columns.prompt: prompt, columns.chosen: chosen, columns.rejected: rejected})
            if rests := without_prompt(prompt, chosen, rejected):
                is_removed = True
                chosen, rejected = (rest.lstrip() for rest in rests) if context else rests
            if not (is_transcript(chosen) or is_transcript(rejected)):
                refuse_transcripts(prompt, chosen, rejected)
                if not context:
                    return _checked(Pair(prompt, chosen, rejected, None, where, is_prompt_removed=is_removed), columns)
        elif prompt is ABSENT:
            chosen, rejected = with_first_mark(chosen), with_first_mark(rejected)
            _check_transcripts(chosen, rejected, columns)

    question = () if prompt is ABSENT else turns_of(prompt, columns.prompt, "user")
    branches = (turns_of(chosen, columns.chosen, "assistant"), turns_of(rejected, columns.rejected, "assistant"))
    is_text = isinstance(prompt, str)
    first, second = (_conversation(context, question, is_text, branch) for branch in branches)
    pair = _join(first, second, context.inputs, where)
    if is_removed:
        pair = dataclasses.replace(pair, is_prompt_removed=True)
    return _checked(pair, columns)


def _unfold(value: Any, name: str) -> Any:
    """Return the messages that a text spells; other values as they are."""
    if not isinstance(value, str):
        return value
    if OPENING.match(value):
        return conversation_in(value, name, ROLE_NAMES) or text_of(value, name)
    return value if value.isascii() else text_of(value, name)


def _check_transcripts(chosen: str, rejected: str, columns: Columns) -> None:
    for text, name in ((chosen, columns.chosen), (rejected, columns.rejected)):
        if not is_transcript(text):
            refuse_rendered(text, name)
            detail = f"there is no `{columns.prompt}`, and `{name}` does not begin with a turn's mark"
            raise Refused("not_a_transcript", detail, columns.prompt)


def _conversation(context: Context, question: Turns, is_text: bool, reply: Turns) -> Turns:
    """Return the whole conversation of one branch; the reply's list may repeat the prompt or not.

    ``is_text`` says that the prompt was a bare text.
    """
    if context.system:
        question, reply = _without_system(question, context.system), _without_system(reply, context.system)
    before = context.history + question

    if before and len(reply) > len(before) and reply[: len(before)] == before:
        turns = reply
    elif question and len(reply) > len(question) and reply[: len(question)] == question:
        turns = context.history + reply
    elif is_text and len(reply) > 1:
        # a text prompt beside whole conversations (UltraFeedback's form) must be one of their questions
        if not any(turn == question[0] for turn in reply[:-1]):
            raise Refused("prompts_differ", "the prompt's text is no turn of the conversation")
        turns = reply
    else:
        turns = before + reply

    if context.system and turns and turns[0].role == "system":
        raise Refused("two_system_prompts", "the system column and the conversation's first turn differ")
    return (Message("system", context.system), *turns) if context.system else turns


def _without_system(turns: Turns, system: str) -> Turns:
    """Return the turns without a first one that repeats the system column."""
    is_repeated = turns and turns[0].role == "system" and turns[0].content.strip() == system.strip()
    return turns[1:] if is_repeated else turns


def _join(chosen: Turns, rejected: Turns, inputs: str, where: str) -> Pair:
    """Split two whole conversations into what they share and their last turns."""
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        check_turns(name, turns)
    prompt, reply, other = chosen[:-1], chosen[-1], rejected[-1]
    if prompt != rejected[:-1]:
        raise Refused(
            "prompts_differ", f"chosen has {len(chosen)} turns, rejected {len(rejected)}, not alike before the last"
        )
    if not any(turn.content.strip() for turn in prompt):
        raise Refused("empty_prompt", f"{len(prompt)} turns before the reply, none with text")
    return Pair(
        prompt,
        reply.content,
        other.content,
        source=where,
        chosen_extra=reply.extra,
        rejected_extra=other.extra,
        inputs=inputs,
    )


def _checked(pair: Pair, columns: Columns) -> Pair:
    """Return the pair if its replies can be compared: both say something, and not the same."""
    sides = (("chosen", pair.chosen, pair.chosen_extra), ("rejected", pair.rejected, pair.rejected_extra))
    for name, text, extra in sides:
        if not text.strip() and "tool_calls" not in extra:
            raise Refused(f"empty_{name}", f"the {name} reply has no text")
    if (pair.chosen, pair.chosen_extra) == (pair.rejected, pair.rejected_extra):
        raise Refused("identical_replies", "chosen and rejected are the same text")
    turns = pair.prompt
    refuse_placeholders((turns,) if isinstance(turns, str) else (turn.content for turn in turns))
    refuse_rendered(pair.chosen, columns.chosen)
    refuse_rendered(pair.rejected, columns.rejected)
    return pair
