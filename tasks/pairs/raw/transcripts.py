r"""Anthropic's transcript form: one text in which turns begin with a blank line and a role.

    \n\nHuman: Hello\n\nAssistant: Hi\n\nHuman: …

The words `Human:` and `Assistant:` mark a turn only behind a blank line; inside a reply they are text.
"""

from __future__ import annotations

import re

from tasks.pairs.record.pair import Message

_MARK = re.compile(r"\n\n(Human|Assistant):")
_BARE = re.compile(r"Human:.*?\n\nAssistant:", re.DOTALL)
_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_transcript(text: str) -> bool:
    """Tell whether ``text`` begins with a turn's mark."""
    return _MARK.match(text) is not None


def with_first_mark(text: str) -> str:
    """Return a text that lacks nothing but a transcript's first blank line with that line; others as they are."""
    return f"\n\n{text}" if _BARE.match(text) else text


def parse_transcript(text: str) -> tuple[Message, ...]:
    """Cut a transcript into its turns; spaces around a turn's text belong to the form and go.

    ``text`` must begin with a mark (:func:`is_transcript`).
    """
    _, *parts = _MARK.split(text)
    return tuple(Message(_ROLES[role], content.strip()) for role, content in zip(parts[::2], parts[1::2], strict=True))
