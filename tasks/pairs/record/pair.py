"""What a preference pair is, how one is identified, and why a row may be turned away.

A pair is a prompt with a chosen and a rejected reply. A prompt is plain text, or the messages of a
conversation up to the reply; replies are the text of one turn.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

from tasks.core.files import canonical_json, sha256_bytes

ABSENT = object()  # the value of a column that a row lacks
ROLES = ("system", "user", "assistant")

REASONS = {
    "broken_row": "the line is not JSON, or a CSV row has too many or too few cells",
    "not_an_object": "the row is not an object with named columns",
    "missing_column": "a column that the pair needs is absent",
    "not_text": "a prompt, a message or a reply is something else than text",
    "not_a_transcript": "without a prompt column, the text does not begin with a Human or Assistant turn",
    "unknown_role": "a turn is by somebody else than system, user or assistant",
    "two_turns_of_one_role": "one role speaks twice in a row",
    "last_turn_not_assistant": "the reply is not an assistant's turn",
    "empty_prompt": "no message stands before the reply, or all of them are blank",
    "empty_chosen": "the chosen reply is blank",
    "empty_rejected": "the rejected reply is blank",
    "prompts_differ": "chosen and rejected do not answer the same conversation",
    "identical_replies": "chosen and rejected are the same text",
    "bad_weight": "the weight is no finite number above 0",
    "bad_margin": "the margin is no finite number",
    "duplicate": "the same pair stands in an earlier row",
    "duplicate_differs": "the same pair stands in an earlier row, with another weight or margin",
    "contradiction": "the same pair also stands with chosen and rejected swapped",
}


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn of a conversation; ``role`` is one of :data:`ROLES`."""

    role: str
    content: str


Prompt = str | tuple[Message, ...]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A prompt and two replies, the first of which somebody preferred.

    Attributes:
        prompt: Plain text, or the messages before the reply.
        chosen: The preferred reply's text.
        rejected: The other reply's text.
        slice: The group that results are also reported by; None for none.
        source: Where the row was read, `file:line`.
        weight: How much the pair counts in the loss beside the others, above 0.
        margin: By how much chosen was found better, in the annotators' own unit.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    slice: str | None = None
    source: str = ""
    weight: float = 1.0
    margin: float = 0.0

    @cached_property
    def prompt_json(self) -> str:
        """The prompt as canonical JSON: text, or a list of role and content."""
        return canonical_json(plain_prompt(self.prompt))

    @cached_property
    def prompt_id(self) -> str:
        """The identity of the prompt: 16 hex digits of a SHA-256."""
        return sha256_bytes(self.prompt_json.encode())[:16]

    @cached_property
    def pair_id(self) -> str:
        """The identity of prompt, chosen and rejected together: 16 hex digits of a SHA-256."""
        return self.text_digest[:16]

    @cached_property
    def text_digest(self) -> str:
        """SHA-256 in hex of prompt, chosen and rejected together, as canonical JSON."""
        return self._digest_of(self.chosen, self.rejected)

    @cached_property
    def swapped_id(self) -> str:
        """The identity that this pair would have with chosen and rejected swapped."""
        return self._digest_of(self.rejected, self.chosen)[:16]

    def _digest_of(self, chosen: str, rejected: str) -> str:
        # the same bytes as canonical_json over the three keys, without serialising the prompt again
        replies = (
            f'{{"chosen":{canonical_json(chosen)},"prompt":{self.prompt_json},"rejected":{canonical_json(rejected)}}}'
        )
        return sha256_bytes(replies.encode())


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A row that gave no pair.

    Attributes:
        source: Where the row was read, `file:line`.
        reason: One of :data:`REASONS`.
        detail: What exactly is wrong, without the row's text.
        column: The absent column, where that is the reason.
    """

    source: str
    reason: str
    detail: str
    column: str | None = None


@dataclasses.dataclass(frozen=True)
class Columns:
    """What the columns of the sources are called; dots reach into nested objects (`meta.paradigm`).

    Slice, weight and margin may be absent, unless they are called differently here; None reads no weight or margin.
    """

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    slice: str = "slice"
    weight: str | None = "weight"
    margin: str | None = "margin"


def plain_prompt(prompt: Prompt) -> str | list[dict[str, str]]:
    """Return a prompt as JSON values: text, or a list of `{"role", "content"}`."""
    if isinstance(prompt, str):
        return prompt
    return [{"role": message.role, "content": message.content} for message in prompt]


def get_field(row: dict[str, Any], name: str) -> Any:
    """Return a column of a row: the key itself, or else the path that its dots describe; :data:`ABSENT` for neither."""
    if name in row:
        return row[name]
    value: Any = row
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            return ABSENT
        value = value[key]
    return value
