"""What encoding must not pass over in silence: too many dropped pairs end the stage, other losses are warned of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tasks.core.errors import DataError
from tasks.pairs.encoding.encoder import EncoderFacts
from tasks.pairs.encoding.tally import Tally
from tasks.telemetry.log import get_logger

_log = get_logger(__name__)


_OTHER_TEMPLATE = "name another template in `encode.chat_template` (`plain` takes system turns, and no tools)"
_LONGER = "raise `encode.max_prompt_tokens` or `encode.max_completion_tokens`, or set `encode.truncation: cut`"
_ADVICE = {  # what to do about a reason
    **dict.fromkeys(("template_refused", "prompt_not_rendered", "reply_not_rendered"), _OTHER_TEMPLATE),
    "tools_not_rendered": "name a template that reads them in `encode.chat_template`, or leave tools and documents out "
    "on purpose: `ingest.ignore: [tools, documents]`",
    **dict.fromkeys(("prompt_too_long", "completion_too_long"), _LONGER),
}


def check_dropped(tallies: Mapping[str, Tally], limit: float) -> None:
    """Refuse data of which more than ``limit`` (0 to 1) was dropped.

    Raises:
        DataError: With the share, the most frequent reasons, and the first row of the most frequent one.
    """
    reasons: Counter[str] = sum((tally.dropped for tally in tallies.values()), Counter())
    dropped = reasons.total()
    every = dropped + sum(tally.kept() for tally in tallies.values())
    if not dropped or dropped / every <= limit:
        return

    top = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(3))
    most = reasons.most_common(1)[0][0]
    first = next(tally.first_detail[most] for tally in tallies.values() if most in tally.first_detail)
    raise DataError(
        f"{dropped} of {every} pairs are dropped ({dropped / every:.1%}): {top}; the first is {first}",
        f"{_ADVICE.get(most, 'fix the data')}; to go on without them, raise `encode.max_dropped_share` over {limit}",
    )


def warn_of_losses(tallies: Mapping[str, Tally], facts: EncoderFacts, text_as: str) -> None:
    """Warn, once each, of replies that were cut, of unknown tokens, and of plain text beside a chat template."""
    cut: Counter[str] = sum((tally.cut for tally in tallies.values()), Counter())
    kept, unknown, plain = (
        sum(numbers) for numbers in zip(*((t.kept(), t.unknown, t.plain) for t in tallies.values()), strict=True)
    )
    if replies := cut["chosen"] + cut["rejected"]:
        message = "%d of %d replies are cut by encode.max_completion_tokens and teach no end"
        _log.warning(message, replies, 2 * kept)
    if unknown:
        _log.warning("%d of %d rows hold unknown tokens: the tokenizer lacks a part of their text", unknown, kept)
    if plain and facts.kind == "auto" and text_as == "completion":
        message = "%d of %d prompts are plain text, and no chat template is used, though the tokenizer has one: "
        _log.warning(message + "set encode.text_as: chat if they are questions", plain, kept)
