"""What a preference pair is, how one is identified, and what the columns of a row are called.

A pair is a prompt with a chosen and a rejected reply. A prompt is plain text, or the messages of a
conversation up to the reply; a reply is one turn: its text, and its tool calls where it makes some.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from functools import cached_property
from json.encoder import encode_basestring
from typing import Any

from tasks.core.files import canonical_json

_text_json = encode_basestring  # a text as canonical JSON, by the encoder itself: several times faster


class _Absent(enum.Enum):
    """A value that stays the same object in every process."""

    ABSENT = "absent"


ABSENT = _Absent.ABSENT  # the value of a column that a row lacks
SYSTEM_NAMES = ("system", "system_prompt", "system_message")
_CONTEXT = ("system", "instruction", "input", "history", "tools", "documents")  # columns that make up a prompt
FORM_COLUMNS = ("first", "second", "winner", "answers", "text", "score", "rank")  # of forms without chosen and rejected
ROLES = ("system", "user", "assistant", "tool")


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: One of :data:`ROLES`.
        content: Its text.
        extra: What else a chat template reads of a message (`tool_calls`, `tool_call_id`, `name`,
            `reasoning_content`), as canonical JSON of an object; empty for none.
    """

    role: str
    content: str
    extra: str = ""

    def fields(self) -> dict[str, Any]:
        """Return the message as a JSON object."""
        return {"role": self.role, "content": self.content, **(json.loads(self.extra) if self.extra else {})}


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
        chosen_extra: What else a template reads of the preferred reply, as :attr:`Message.extra`.
        rejected_extra: The same of the other reply.
        inputs: What a chat template gets besides the messages (`tools`, `documents`), as canonical JSON of an object;
            empty for none.
        is_prompt_removed: Both replies began with the prompt's text in the source, and it was removed from them.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    slice: str | None = None
    source: str = ""
    weight: float = 1.0
    margin: float = 0.0
    chosen_extra: str = ""
    rejected_extra: str = ""
    inputs: str = ""
    is_prompt_removed: bool = dataclasses.field(default=False, compare=False)

    @cached_property
    def content_json(self) -> str:
        """The prompt in the form that it has, as canonical JSON: text, or a list of messages."""
        return _text_json(self.prompt) if isinstance(self.prompt, str) else canonical_json(plain_prompt(self.prompt))

    @property
    def prompt_json(self) -> str:
        """What identifies the prompt, as canonical JSON.

        A question alone is the same prompt as text and as a user's message. Tools and documents are part of a prompt.
        """
        content = self.content_json
        if not isinstance(self.prompt, str) and [turn.role for turn in self.prompt] == ["user"]:
            content = _text_json(self.prompt[0].content)
        return f'{{"inputs":{self.inputs},"prompt":{content}}}' if self.inputs else content

    @property
    def prompt_id(self) -> str:
        """The identity of the prompt: 16 hex digits of a SHA-256."""
        return self.ids[0]

    @property
    def pair_id(self) -> str:
        """The identity of prompt, chosen and rejected together: 16 hex digits of a SHA-256."""
        return self.ids[1]

    @property
    def swapped_id(self) -> str:
        """The identity that this pair would have with chosen and rejected swapped."""
        return self.ids[2]

    @cached_property
    def ids(self) -> tuple[str, str, str]:
        """The identities of the prompt, of the pair, and of the pair with its replies swapped."""
        prompt = self.prompt_json
        chosen, rejected = _reply_json(self.chosen, self.chosen_extra), _reply_json(self.rejected, self.rejected_extra)
        return (
            _id_of(prompt),
            _id_of(f'{{"chosen":{chosen},"prompt":{prompt},"rejected":{rejected}}}'),
            _id_of(f'{{"chosen":{rejected},"prompt":{prompt},"rejected":{chosen}}}'),
        )

    @property
    def text_id(self) -> str:
        """What tokens depend on: the identity of the pair, and whether its prompt is text or messages."""
        return f"{self.pair_id} {'text' if isinstance(self.prompt, str) else 'chat'}"

    @property
    def lengths(self) -> tuple[int, int, int]:
        """Characters of the prompt's text or of its messages' texts, of the chosen and of the rejected reply."""
        turns = self.prompt
        prompt = len(turns) if isinstance(turns, str) else sum(len(turn.content) for turn in turns)
        return prompt, len(self.chosen), len(self.rejected)


@dataclasses.dataclass(frozen=True)
class Columns:
    """What the columns of the sources are called; dots reach into nested objects (`meta.paradigm`).

    Prompt, chosen and rejected are needed. Any other column may be absent, unless it is called differently here; None
    leaves it unread.
    """

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    slice: str = "slice"
    weight: str | None = "weight"
    margin: str | None = "margin"
    system: str | None = "system"
    instruction: str | None = "instruction"
    input: str | None = "input"
    history: str | None = "history"
    tools: str | None = "tools"
    documents: str | None = "documents"
    first: str | None = None
    second: str | None = None
    winner: str | None = None
    answers: str | None = None
    text: str | None = None
    score: str | None = None
    rank: str | None = None

    @cached_property
    def system_names(self) -> tuple[str, ...]:
        """The columns that may hold the system prompt."""
        return SYSTEM_NAMES if self.system == Columns.system else ((self.system,) if self.system else ())

    @cached_property
    def questions(self) -> tuple[str, ...]:
        """The columns that may hold the prompt where there is no prompt column."""
        return ("conversations", "question", "query") if self.prompt == Columns.prompt else ()

    def is_bare(self, row: dict[str, Any]) -> bool:
        """Tell whether a row has none of the columns beside prompt, chosen and rejected."""
        return self._beside is not None and self._beside.isdisjoint(row)

    @cached_property
    def _beside(self) -> frozenset[str] | None:
        """The columns that may stand beside the three; None where one was renamed, and so must be there."""
        renamed = [getattr(self, name) not in (None, name) for name in ("slice", "weight", "margin", *_CONTEXT)]
        return None if any(renamed) else frozenset(self.reads() - _top_level(self.prompt, self.chosen, self.rejected))

    def reads(self) -> set[str]:
        """Return the names of the top-level columns that a row is read from."""
        named = [name for name in dataclasses.astuple(self) if name]
        return _top_level(*named, *self.system_names, *self.questions)


def _top_level(*names: str) -> set[str]:
    return {*names, *(name.split(".")[0] for name in names)}


def plain_prompt(prompt: Prompt) -> str | list[dict[str, Any]]:
    """Return a prompt as JSON values: text, or a list of messages."""
    if isinstance(prompt, str):
        return prompt
    return [message.fields() for message in prompt]


def prompt_of(content_json: str) -> Prompt:
    """Return the prompt that :attr:`Pair.content_json` holds."""
    content = json.loads(content_json)
    if isinstance(content, str):
        return content
    return tuple(message_of(fields) for fields in content)


def message_of(fields: dict[str, Any]) -> Message:
    """Return the message that :meth:`Message.fields` gave."""
    extra = {name: value for name, value in fields.items() if name not in ("role", "content")}
    return Message(fields["role"], fields["content"], canonical_json(extra) if extra else "")


def _reply_json(text: str, extra: str) -> str:
    content = _text_json(text)
    return f'{{"content":{content},"extra":{extra}}}' if extra else content


def _id_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def get_field(row: dict[str, Any], name: str) -> Any:
    """Return a column of a row: the key itself, or else the path that its dots describe; :data:`ABSENT` for neither.

    In a list the path goes on with the item's place, from 0: `completions.0.text`.
    """
    if name in row:
        return row[name]
    value: Any = row
    for key in name.split("."):
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return ABSENT
    return value
