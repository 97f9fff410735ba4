"""Chat templates: how a conversation becomes one text.

The template is the tokenizer's own, the built-in plain one, or a jinja file. A conversation is always
rendered whole, for a template may render the same turns differently once a reply follows.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
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

MARK = "QUERYREPLYMARK"  # stands for a reply, to see what a template writes around one


class TemplateRefused(Exception):
    """The template does not accept this conversation; the text says why."""


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A jinja template and what it needs to render.

    Attributes:
        kind: `auto` (the tokenizer's own), `plain` (built in) or `file`.
        jinja: The template's text.
        special_tokens: The tokenizer's special tokens by name, such as `bos_token`.
        more: Further variables that the template reads, such as `enable_thinking`.
    """

    kind: str
    jinja: str
    special_tokens: Mapping[str, Any]
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @cached_property
    def _compiled(self) -> Any:
        # what `apply_chat_template` itself compiles with, so that both render the same text; the public
        # function takes no clock and costs three times as long
        from transformers.utils.chat_template_utils import _compile_jinja_template

        return _compile_jinja_template(self.jinja)

    @cached_property
    def _globals(self) -> dict[str, Any]:
        return dict(self._compiled.globals)

    @cached_property
    def variables(self) -> set[str]:
        """The names of all variables that the template reads."""
        from jinja2 import meta

        environment = self._compiled.environment
        return set(meta.find_undeclared_variables(environment.parse(self.jinja)))

    def render(self, messages: Sequence[Message], reply: Message | str | None = None, inputs: str = "") -> str:
        """Return the text of a conversation, ending with ``reply`` or, without one, where it would begin.

        Args:
            messages: The turns before the reply.
            reply: The reply, or its text alone.
            inputs: What the template gets besides messages, as :attr:`Pair.inputs`.

        Raises:
            TemplateRefused: The template raises an error for this conversation.
        """
        if reply is None:
            return self._text(messages, True, inputs) + self.opening
        last = Message("assistant", reply) if isinstance(reply, str) else reply
        return self._text([*messages, last], False, inputs)

    @cached_property
    def opening(self) -> str:
        """What opens the assistant's turn where the template does not know `add_generation_prompt`; else nothing.

        It is what stands before a reply's own text. Blanks alone open no turn: they belong to the reply.
        """
        question = [Message("user", "Question")]
        try:
            alone, asked = (self._text(question, is_asked) for is_asked in (False, True))
            marked = self._text([*question, Message("assistant", MARK)], False)
        except TemplateRefused:  # `ending` says so
            return ""
        head = marked.rpartition(MARK)[0]
        if alone != asked or not head.startswith(alone):
            return ""
        opening = head[len(alone) :]
        return opening if opening.strip() else ""

    def _text(self, messages: Sequence[Message], is_asked: bool, inputs: str = "") -> str:
        from jinja2.exceptions import TemplateError

        more_inputs = {"tools": None, "documents": None} | (json.loads(inputs) if inputs else {})
        variables = {"strftime_now": _TODAY.strftime, **self.special_tokens, **more_inputs, **self.more}
        turns = [message.fields() for message in messages]
        try:
            # what `render` does, without copying the environment's names one by one
            given = {**self._globals, "messages": turns, "add_generation_prompt": is_asked, **variables}
            context = self._compiled.new_context(given, shared=True)
            return "".join(self._compiled.root_render_func(context))
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            raise TemplateRefused(str(error) or type(error).__name__) from None

    def ending(self) -> str:
        """Return what the template writes behind a last reply, such as `<|im_end|>` and a line feed.

        Raises:
            ConfigError: The template cannot render a question and a reply.
        """
        advice = "choose another `encode.chat_template`"
        try:
            text = self.render([Message("user", "Question")], MARK)
        except TemplateRefused as refusal:
            raise ConfigError(
                f"the chat template ({self.kind}) fails on one question and a reply: {refusal}", advice
            ) from None
        if MARK not in text:
            raise ConfigError(f"the chat template ({self.kind}) leaves the assistant's reply out", advice)
        return text.rpartition(MARK)[2]


def load_template(tokenizer: Any, choice: str, more: Mapping[str, Any] | None = None) -> ChatTemplate | None:
    """Return the template that ``choice`` (`auto`, `plain` or a file's path) names; None: the tokenizer has none.

    ``more`` are further variables for it.

    Raises:
        ConfigError: The file is missing, the template is not valid jinja, or it reads none of a variable of ``more``.
    """
    special = dict(tokenizer.special_tokens_map)
    more = more or {}
    if choice == PLAIN:
        return _checked(ChatTemplate(PLAIN, PLAIN_TEMPLATE, special, more))
    if choice != AUTO:
        return _checked(ChatTemplate("file", _read_template(Path(choice)), special, more))
    jinja = tokenizer.chat_template
    if isinstance(jinja, dict):
        jinja = jinja.get("default")
    if jinja and not isinstance(jinja, str):
        raise ConfigError(
            f"the tokenizer's `chat_template` is {jinja!r:.60}, and no text",
            "correct it in tokenizer_config.json, or name a template in `encode.chat_template`",
        )
    if not jinja and more:
        raise ConfigError(
            "`encode.template_kwargs` is set, and the tokenizer has no chat template",
            "remove it, or name a template in `encode.chat_template`",
        )
    return _checked(ChatTemplate(AUTO, jinja, special, more)) if jinja else None


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
    given = {"messages", "tools", "documents", "add_generation_prompt", "strftime_now", *template.special_tokens}
    if reserved := sorted(given & set(template.more)):
        raise ConfigError(
            f"`encode.template_kwargs` names {', '.join(reserved)}, which the template gets anyway",
            "remove it there",
        )
    if unread := sorted(set(template.more) - template.variables):
        names = ", ".join(unread)
        raise ConfigError(
            f"`encode.template_kwargs` names {names}, which the chat template ({template.kind}) does not read",
            "correct the name, or remove it",
        )
    return template
