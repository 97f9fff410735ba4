"""A pair as three texts: the prompt as generation sees it, and that text with each reply behind it.

The prompt of training is the prompt of generation, to the character. Most templates render it alike with a reply
behind it. Those that do not (Mistral moves the system text, others add or strip think marks) would shift the boundary
into the question, so there the reply's own text, from its first character on, is put behind generation's prompt. Think
marks of generation's prompt stay in the prompt; marks that a template writes behind that prompt belong to the reply,
for generation has to produce them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from tasks.pairs.encoding.assemble import PairDropped
from tasks.pairs.encoding.template import MARK, ChatTemplate, TemplateRefused
from tasks.pairs.record.pair import Message, Pair


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A pair's three texts.

    Attributes:
        texts: The prompt, and the prompt with the chosen and with the rejected reply.
        is_chat: A chat template rendered them.
        is_rerendered: The template renders the prompt differently once a reply follows.
    """

    texts: tuple[str, str, str]
    is_chat: bool
    is_rerendered: bool = False


def render_pair(pair: Pair, prompt: Sequence[Message], template: ChatTemplate) -> Rendered:
    """Return the texts of a conversation with its two replies; both begin with the prompt's.

    Raises:
        PairDropped: The template refuses the conversation, or leaves out a part of it.
    """
    turns = [turn for turn in prompt if turn.role != "system" or turn.content.strip()]
    replies = [
        Message("assistant", pair.chosen, pair.chosen_extra),
        Message("assistant", pair.rejected, pair.rejected_extra),
    ]
    _check_reads(pair, [*turns, *replies], template)
    try:
        alone = template.render(turns, inputs=pair.inputs)
        _check_holds(alone, turns)

        branches = [template.render(turns, reply, pair.inputs) for reply in replies]

        is_rerendered = not all(branch.startswith(alone) for branch in branches)
        if is_rerendered:
            marked = template.render(turns, Message("assistant", MARK), pair.inputs)
            branches = [
                branch if branch.startswith(alone) else alone + _reply_tail(alone, branch, marked, reply)
                for branch, reply in zip(branches, replies, strict=True)
            ]

        if not all(
            _holds(branch[len(alone) :], reply.content) for branch, reply in zip(branches, replies, strict=True)
        ):
            raise PairDropped("reply_not_rendered", "the chat template leaves out or changes a part of a reply")
    except TemplateRefused as refusal:
        raise PairDropped("template_refused", str(refusal)) from None
    return Rendered((alone, branches[0], branches[1]), is_chat=True, is_rerendered=is_rerendered)


def _check_holds(prompt: str, turns: Sequence[Message]) -> None:
    """Refuse a rendered prompt without the text of a system's or a user's turn; of earlier replies, thoughts may go."""
    for number, turn in enumerate(turns, start=1):
        if turn.role in ("system", "user") and not _holds(prompt, turn.content):
            detail = f"the chat template leaves out or changes the text of turn {number}, which is by {turn.role}"
            raise PairDropped("prompt_not_rendered", detail)


def _holds(rendered: str, text: str) -> bool:
    """Return whether a text stands in a rendered one; other blanks are no loss."""
    return text in rendered or "".join(text.split()) in "".join(rendered.split())


def _reply_tail(alone: str, branch: str, marked: str, reply: Message) -> str:
    """Return what ``branch`` holds from the reply's own first character on, or from the blanks before it.

    Blanks behind the end of generation's prompt (Mistral's `[/INST] `) belong to the reply, as in templates that render
    the prompt alike.

    Args:
        alone: The prompt as generation sees it.
        branch: The conversation with the reply.
        marked: The same with :data:`MARK` as its reply, which shows what stands before and behind one.
        reply: The reply.
    """
    head, _, ending = marked.rpartition(MARK)
    is_same_end = alone.split()[-1:] == head.split()[-1:] and alone == alone.rstrip()
    blanks = head[len(head.rstrip()) :] if is_same_end else ""
    text = reply.content
    if text.strip() and not reply.extra:
        for form in (text, text.strip()):
            if branch == head + form + ending:
                return blanks + form + ending
    elif branch.startswith(head.rstrip()):  # tool calls: the template writes them in its own notation
        return branch[len(head.rstrip()) :]
    raise PairDropped("reply_not_rendered", "the template changes the reply, so its beginning cannot be located")


def _check_reads(pair: Pair, turns: Sequence[Message], template: ChatTemplate) -> None:
    """Refuse what the template would leave out without a word."""
    inputs = [name for name, value in json.loads(pair.inputs or "{}").items() if value]
    calls = ["tool_calls" for turn in turns if turn.extra and turn.fields().get("tool_calls")]
    thoughts = ["reasoning_content" for turn in turns[-2:] if turn.extra and turn.fields().get("reasoning_content")]
    unread = {name for name in inputs if name not in template.variables}
    unread |= {name for name in calls + thoughts if name not in template.jinja}
    if unread:
        raise PairDropped("tools_not_rendered", f"the chat template does not read {', '.join(sorted(unread))}")
