"""What a chat template writes between turns, where no end token stands there: a model may go on with the next turn."""

from __future__ import annotations

from typing import Any

from tasks.pairs.encoding.encoder import EncodeConfig
from tasks.pairs.encoding.template import MARK, TemplateRefused, load_template
from tasks.pairs.record.pair import Message

_QUESTION = "QUERYTURNMARK"


def turn_marks(tokenizer: Any, config: EncodeConfig) -> tuple[str, ...]:
    r"""Return the texts that open a turn in the template's prompts, such as "\n\nHuman:", without blanks at their end.

    There are none without a template, and none where an added token ends or opens turns: answers end at that.

    Raises:
        ConfigError: The template cannot be loaded.
    """
    template = load_template(tokenizer, config.chat_template, config.template_kwargs)
    if template is None:
        return ()
    first, last = Message("user", _QUESTION), Message("assistant", MARK)
    try:
        text = template.render([first, last, first], MARK)
    except TemplateRefused:  # of earlier replies: such a template has no turns to go on with
        return ()

    parts = text.replace(_QUESTION, MARK).split(MARK)
    marks = [part.rstrip() for part in parts[1:-1]]  # before a reply, before a question, before a reply
    added = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    if len(marks) != 3 or any(token.strip() and token in mark for token in added for mark in marks):
        return ()
    return tuple(sorted({mark for mark in marks if any(map(str.isalnum, mark))}))
