"""One call to a language model: its request, and the key under which its answer is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any

from tasks.core.files import digest_of
from tasks.judges.llm import verdict_forms, wording
from tasks.judges.llm.answer_cache import AnswerCache
from tasks.judges.llm.llm_choice import OpenAIJudge
from tasks.judges.llm.verdict_forms import Form, Reply
from tasks.judges.protocol.protocol import Item

ASKS = 3  # times that an item is asked about until a reply is a verdict; each has a seed of its own
_ITEMS_AT_ONCE = 500


@dataclasses.dataclass(frozen=True)
class Call:
    """A request that is ready to be sent, or to be looked up.

    Attributes:
        endpoint: The address; two endpoints may serve different models under one name.
        body: All that is sent.
    """

    endpoint: str
    body: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """A digest of all that can change the answer, and of the version that reads it."""
        return digest_of([verdict_forms.VERSION, self.endpoint, self.body])

    @property
    def characters(self) -> int:
        """The length of the prompt."""
        return sum(len(message["content"]) for message in self.body["messages"])


def call_of(choice: OpenAIJudge, form: Form, item: Item, ask: int = 0) -> Call:
    """Return the call for an item; ``ask`` counts how often it was asked about before."""
    return Call(
        choice.endpoint,
        {
            "model": choice.model,
            "messages": wording.messages(item, choice.criteria, form.instruction),
            "temperature": 0,
            "top_p": 1,
            "seed": choice.seed + ask,
            "max_tokens": form.most_tokens or choice.max_tokens,
            **form.request,
        },
    )


def settles(form: Form, reply: Reply) -> bool:
    """Tell whether an item is not asked about again: the reply is a verdict, or the endpoint does not take the item."""
    return reply.finish == "refused" or form.verdict(reply).p_first is not None


@dataclasses.dataclass
class Survey:
    """What the cache holds of a stage's calls.

    Attributes:
        items: Items that were looked up.
        calls: Calls made for them, failed ones included.
        cost: What those took.
        missing: Calls that are still to be made; of an item whose last reply is no verdict, the one that asks again.
        characters: Of the prompts of those.
    """

    items: int = 0
    calls: int = 0
    cost: float = 0.0
    missing: int = 0
    characters: int = 0


def survey(choice: OpenAIJudge, form: Form, items: Iterable[Item], cache: AnswerCache) -> Survey:
    """Look up every item."""
    total = Survey()
    for call in missing_calls(choice, form, items, cache, total):
        total.missing += 1
        total.characters += call.characters
    return total


def missing_calls(
    choice: OpenAIJudge, form: Form, items: Iterable[Item], cache: AnswerCache, total: Survey
) -> Iterator[Call]:
    """Yield the calls that are still to be made, each once; add what is there to ``total``."""
    left, seen = iter(items), set[str]()
    while part := list(islice(left, _ITEMS_AT_ONCE)):
        total.items += len(part)
        for ask in range(ASKS):
            calls = {call.key: (item, call) for item in part if (call := call_of(choice, form, item, ask))}
            calls = {key: entry for key, entry in calls.items() if key not in seen}
            payloads, usages = cache.get_many(calls), cache.usage_of(calls)
            seen |= set(calls)

            total.calls += len(usages) + cache.failures_of(calls)
            total.cost += sum(usage.cost for usage in usages.values())
            yield from (call for key, (_, call) in calls.items() if key not in payloads)
            part = [calls[key][0] for key, payload in payloads.items() if not settles(form, Reply.of(payload))]
