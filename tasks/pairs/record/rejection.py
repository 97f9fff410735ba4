"""Why a row may give no pair."""

from __future__ import annotations

import dataclasses

REASONS = {
    "broken_row": "the line is not JSON, or a CSV row has too many or too few cells",
    "not_an_object": "the row is not an object with named columns",
    "missing_column": "a column that the pair needs is absent",
    "not_text": "a prompt, a message or a reply is something else than text",
    "not_text_part": "a message has a part that is not text, such as an image, or a mark in its place",
    "unread_message_key": "a message has a key that may shape the prompt, and that nothing reads",
    "bad_tool_calls": "a message's tool calls are no list of functions with names and arguments",
    "bad_context": "the history, tools or documents column does not hold what its name says",
    "serialised_conversation": "the text is a list of messages in a notation that cannot be read",
    "not_quoted": "a text stands without quotes in a source whose texts all are in quotes",
    "rendered_conversation": "a reply contains a chat template's marks of a turn",
    "two_prompts": "two columns hold different prompts",
    "two_system_prompts": "two different system prompts are given for one conversation",
    "not_a_transcript": "without a prompt column, the text does not begin with a Human or Assistant turn",
    "unknown_role": "a turn is by somebody else than system, user, assistant or tool",
    "two_turns_of_one_role": "one role speaks twice in a row",
    "tool_turn_without_call": "a tool's turn follows neither an assistant's turn nor another tool's",
    "last_turn_not_assistant": "the reply is not an assistant's turn",
    "empty_prompt": "no message stands before the reply, or all of them are blank",
    "empty_chosen": "the chosen reply is blank",
    "empty_rejected": "the rejected reply is blank",
    "prompts_differ": "chosen and rejected do not answer the same conversation",
    "identical_replies": "chosen and rejected are the same text",
    "bad_weight": "the weight is no finite number above 0",
    "bad_margin": "the margin is no finite number",
    "unread_key": "an object in the row has a key that may shape the prompt, and that nothing reads",
    "not_a_list": "the answers, or their scores, are no list of the length and kind that the form has",
    "bad_score": "a score or rank is no finite number",
    "unknown_vote": "a vote has a value whose meaning nobody named",
    "nothing_shared": "two whole texts begin with different words, so that nothing of them is a prompt",
    "tie": "the votes or scores prefer neither answer",
    "both_bad": "the vote says that neither answer is good",
    "no_vote": "nobody voted",
    "unpaired": "the answer has no other one to be compared with",
    "gap_too_small": "the scores of the answers are closer than the least gap asked for",
    "personal_data": "the pair holds personal data or secrets, which are to be dropped",
    "duplicate": "the same pair stands in an earlier row",
    "duplicate_differs": "the same pair stands in an earlier row, with another weight or margin",
    "contradiction": "the same pair also stands with chosen and rejected swapped",
    "near_both_sides": "the prompt is nearly the same as prompts of train and of test",
    "kept_out": "an evaluation set of `ingest.keep_out` holds the prompt",
    "in_test_source": "the prompt stands in a source whose pairs are all to test on",
}

# of rows that are read as they should be, and hold no preference: they do not count as faulty
NO_PREFERENCE = frozenset(("tie", "both_bad", "no_vote", "unpaired", "gap_too_small"))
# of usable pairs that stand on neither side of the split: they do not count as faulty, either
NEITHER_SIDE = ("kept_out",)
NOT_FAULTY = NO_PREFERENCE | {"duplicate", "personal_data", *NEITHER_SIDE}


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A row that gave no pair.

    Attributes:
        source: Where the row was read, `file:line`.
        reason: One of :data:`REASONS`.
        detail: What exactly is wrong, without the row's text.
        column: The absent column, where that is the reason.
        kept: What the row says, as a line of JSON, where it is kept for another use than pairs; empty for nothing.
    """

    source: str
    reason: str
    detail: str
    column: str | None = None
    kept: str = ""
