"""Two canned items, asked about once: in which form a model gives verdicts, and by which name it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

from tasks.core.errors import ConfigError
from tasks.core.files import digest_of
from tasks.judges.llm import verdict_forms, wording
from tasks.judges.llm.answer_cache import AnswerCache
from tasks.judges.llm.calls import Call, call_of
from tasks.judges.llm.endpoint import Answered, Refused
from tasks.judges.llm.llm_choice import OpenAIJudge
from tasks.judges.llm.verdict_forms import FORMS, Form
from tasks.judges.protocol.protocol import Answer, Item, Prompt, Turn, Usage

_QUESTION = Prompt((Turn("user", "How many legs does a spider have, and is it an insect?"),))
_GOOD = Answer("A spider has eight legs. It is not an insect: insects have six, and spiders are arachnids.")
_BAD = Answer("I like turtles.")
ITEMS = (Item("probe/good first", _QUESTION, _GOOD, _BAD), Item("probe/good second", _QUESTION, _BAD, _GOOD))
_OTHER_FORM_MAY_DO = (400, 422, 501)


@dataclasses.dataclass(frozen=True)
class Traits:
    """What the probe showed. It is kept in the cache, so every stage and every later run judges in the same way.

    Attributes:
        form: The name of the form of verdicts.
        model: The model's name as the endpoint answers it.
        characters_per_token: Of prompts.
        tokens_out: Of a reply, on average.
    """

    form: str
    model: str
    characters_per_token: float
    tokens_out: float


def name_of(choice: OpenAIJudge) -> str:
    """Return the name under which the cache holds the traits of a judge."""
    settings = [choice.endpoint, choice.model, choice.answered_as, choice.criteria, choice.seed, choice.max_tokens]
    return f"traits {digest_of([wording.VERSION, verdict_forms.VERSION, *settings])}"


def kept_traits(choice: OpenAIJudge, cache: AnswerCache) -> Traits | None:
    """Return the traits that the cache holds; None for none."""
    values: dict[str, Any] | None = cache.fact(name_of(choice))
    return Traits(**values) if values else None


async def probe(choice: OpenAIJudge, cache: AnswerCache, ask: Callable[[Call], Awaitable[Answered]]) -> Traits:
    """Return the traits of a model: the first form in which it gives a verdict on both items.

    Args:
        choice: The endpoint and the model.
        cache: Holds what calls took.
        ask: Makes a call, or takes it from the cache.

    Raises:
        ConfigError: It gives none in any form, or the endpoint refuses its calls.
    """
    faults = []
    for form in FORMS.values():
        calls = [call_of(choice, form, item) for item in ITEMS]
        try:
            answers = [await ask(call) for call in calls]
        except Refused as refused:
            if refused.fault.status not in _OTHER_FORM_MAY_DO or form is list(FORMS.values())[-1]:
                raise refused.fault.error(choice.endpoint) from None
            continue
        readings = [form.verdict(answer.reply) for answer in answers]
        if all(reading.p_first is not None for reading in readings):
            return _traits(form, calls, list(cache.usage_of([call.key for call in calls]).values()))
        faults += [f"{form.name}: {reading.detail['fault']}" for reading in readings if reading.p_first is None]
    raise ConfigError(
        f"the model {choice.model!r} gives no verdict in any form ({'; '.join(dict.fromkeys(faults))})",
        "raise `winrate.judge.max_tokens` if its replies are cut off, or choose a model that follows instructions",
    )


def _traits(form: Form, calls: list[Call], usages: list[Usage]) -> Traits:
    total = sum(usages, Usage())
    characters = sum(call.characters for call in calls)
    return Traits(form.name, total.model, characters / max(total.tokens_in, 1), total.tokens_out / len(usages))
