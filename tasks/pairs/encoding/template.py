"""Chat templates: how a conversation becomes one text.

The template is the tokenizer's own, the built-in plain one, or a jinja file. A conversation is always
rendered whole, for a template may render the same turns differently once a reply follows.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.core.errors import ConfigError
from tasks.pairs.record.pair import Message

AUTO, PLAIN = "auto", "plain"

# Anthropic's transcript form; a reply begins with its space, as words inside a text do.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}"
    r"{% elif message.role == 'user' %}{{ '\n\nHuman: ' + message.content }}"
    r"{% else %}{{ '\n\nAssistant: ' + message.content }}{% endif %}"
    "{% endfor %}"
    r"{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)

# Some templates write today's date into the system turn. Bytes that change overnight would re-run every
# stage, so the clock that templates see stands still; the day is the one Llama 3.2's template falls back to.
_TODAY = datetime.datetime(2024, 7, 26)

_MARK = "QUERYREPLYMARK"


class TemplateRefused(Exception):
    """The template does not accept this conversation; the text says why."""


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A jinja template and what it needs to render.

    Attributes:
        kind: `auto` (the tokenizer's own), `plain` (built in) or `file`.
        jinja: The template's text.
        special_tokens: The tokenizer's special tokens by name, such as `bos_token`.
    """

    kind: str
    jinja: str
    special_tokens: Mapping[str, Any]

    @cached_property
    def _compiled(self) -> Any:
        # what `apply_chat_template` itself compiles with, so that both render the same text; the public
        # function takes no clock and costs three times as long
        from transformers.utils.chat_template_utils import _compile_jinja_template

        return _compile_jinja_template(self.jinja)

    def render(self, messages: Sequence[Message], reply: str | None = None) -> str:
        """Return the text of a conversation, ending with ``reply`` or, without one, where it would begin.

        Raises:
            TemplateRefused: The template raises an error for this conversation.
        """
        from jinja2.exceptions import TemplateError

        turns = [dataclasses.asdict(message) for message in messages]
        if reply is not None:
            turns.append({"role": "assistant", "content": reply})
        try:
            text: str = self._compiled.render(
                messages=turns,
                tools=None,
                documents=None,
                add_generation_prompt=reply is None,
                **{**self.special_tokens, "strftime_now": _TODAY.strftime},
            )
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            raise TemplateRefused(str(error) or type(error).__name__) from None
        return text

    def ending(self) -> str:
        """Return what the template writes behind a last reply, such as `<|im_end|>` and a line feed.

        Raises:
            ConfigError: The template cannot render a question and a reply.
        """
        advice = "choose another `encode.chat_template`"
        try:
            text = self.render([Message("user", "Question")], _MARK)
        except TemplateRefused as refusal:
            raise ConfigError(
                f"the chat template ({self.kind}) fails on one question and a reply: {refusal}", advice
            ) from None
        if _MARK not in text:
            raise ConfigError(f"the chat template ({self.kind}) leaves the assistant's reply out", advice)
        return text.rpartition(_MARK)[2]


def load_template(tokenizer: Any, choice: str) -> ChatTemplate | None:
    """Return the template that ``choice`` (`auto`, `plain` or a file's path) names; None: the tokenizer has none.

    Raises:
        ConfigError: The file is missing, or the template is not valid jinja.
    """
    special = dict(tokenizer.special_tokens_map)
    if choice == PLAIN:
        return ChatTemplate(PLAIN, PLAIN_TEMPLATE, special)
    if choice != AUTO:
        return _checked(ChatTemplate("file", _read_template(Path(choice)), special))
    jinja = tokenizer.chat_template
    if isinstance(jinja, dict):
        jinja = jinja.get("default")
    return _checked(ChatTemplate(AUTO, jinja, special)) if jinja else None


def template_content(choice: str) -> str:
    """Return what ``choice`` stands for, so that another content gives another text: a file counts by its own.

    Raises:
        ConfigError: The file is missing.
    """
    return choice if choice in (AUTO, PLAIN) else f"file\n{_read_template(Path(choice))}"


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError):
        raise ConfigError(
            f"`encode.chat_template` is {str(path)!r}, and no text file is there",
            "write auto, plain, or a jinja file's path",
        ) from None


def _checked(template: ChatTemplate) -> ChatTemplate:
    from jinja2.exceptions import TemplateSyntaxError

    try:
        template._compiled  # noqa: B018 compiling is the check
    except TemplateSyntaxError as error:
        raise ConfigError(
            f"the chat template ({template.kind}) is not valid jinja: {error}", "correct that line"
        ) from None
    return template
