"""A language model as a pair judge: asks, keeps every finished call, and pays for none twice."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tasks.core.errors import ConfigError, NetworkError
from tasks.core.files import digest_of
from tasks.judges.games.pool import finish
from tasks.judges.llm import verdict_forms, wording
from tasks.judges.llm.answer_cache import AnswerCache
from tasks.judges.llm.batches import Batches
from tasks.judges.llm.calls import ASKS, Call, Survey, call_of, missing_calls, settles, survey
from tasks.judges.llm.endpoint import Answered, Endpoint, Refused
from tasks.judges.llm.faults import ITEM
from tasks.judges.llm.limits import Budget, stopped
from tasks.judges.llm.llm_choice import OpenAIJudge
from tasks.judges.llm.probe import Traits, kept_traits, name_of, probe
from tasks.judges.llm.verdict_forms import FORMS, Form, Reply
from tasks.judges.protocol.protocol import Item, Opinion, Usage, opinion_of
from tasks.telemetry import log

_log = log.get_logger(__name__)
_BATCH_ROUNDS = ASKS + 1  # a failed line is submitted again


class LlmJudge:
    """Compares two answers by asking a model at an endpoint.

    Args:
        choice: The endpoint, the model and the limits.
    """

    def __init__(self, choice: OpenAIJudge) -> None:
        self.at_once = choice.at_once
        self._choice = choice
        self._budget = Budget(choice)
        self._is_stopped = False
        self._endpoint: Endpoint | None = None
        self._in_flight: dict[str, asyncio.Future[Answered]] = {}

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the model as it answers, the form of its verdicts, all texts and the decoding.

        Raises:
            ConfigError: The endpoint cannot be used, or the cache that is replayed holds nothing of this judge.
        """
        choice, traits = self._choice, self._traits
        model = [choice.endpoint, choice.model, traits.model, choice.seed, choice.max_tokens]
        texts = [wording.VERSION, verdict_forms.VERSION, traits.form, choice.criteria.strip() or wording.CRITERIA]
        return digest_of(["openai", 1, *model, *texts])

    @cached_property
    def _cache(self) -> AnswerCache:
        return AnswerCache(Path(self._choice.cache))

    @cached_property
    def _traits(self) -> Traits:
        choice = self._choice
        if traits := kept_traits(choice, self._cache):
            return traits
        if choice.mode == "replay":
            raise ConfigError(
                f"{choice.cache} holds no answers of {choice.model!r} at {choice.endpoint} with these settings",
                "run once with `mode: live`, or put the cache of such a run in its place",
            )
        _log.info("two canned pairs show in which form %s at %s gives verdicts", choice.model, choice.endpoint)
        traits = finish(self, self._probed())
        self._cache.set_fact(name_of(choice), dataclasses.asdict(traits))
        return traits

    async def _probed(self) -> Traits:
        return await probe(self._choice, self._cache, self._answered)

    @property
    def _form(self) -> Form:
        return FORMS[self._traits.form]

    def prepare(self, items: Sequence[Item]) -> None:
        """Look the items up; say what judging the others takes, and refuse what the limits do not allow.

        Raises:
            ConfigError: The estimate exceeds a limit, or answers are missing from a cache that is replayed.
            NetworkError: The endpoint's batch API failed.
        """
        choice = self._choice
        result = survey(choice, self._form, items, self._cache)
        if result.missing and choice.mode == "replay":
            raise ConfigError(
                f"{result.missing} of {result.items} verdicts are not in {choice.cache}, which is replayed",
                "run with `mode: live`, or put the cache of a complete run in its place",
            )
        self._budget.begin(result.calls, result.cost)
        if result.missing:
            self._estimate(result)
        if result.missing and choice.mode == "batch":
            finish(self, self._submit(items))

    def _estimate(self, result: Survey) -> None:
        choice, traits, calls = self._choice, self._traits, result.missing
        tokens_in, tokens_out = result.characters / traits.characters_per_token, calls * traits.tokens_out
        cost = choice.cost(tokens_in, tokens_out)
        _log.info(
            "%d calls to %s, about %.0f tokens in and %.0f out%s; %d of %d verdicts are in the cache",
            *(calls, traits.model, tokens_in, tokens_out),
            f", cost about {cost:.4g}" if choice.is_metered else "",
            *(result.items - calls, result.items),
        )
        what = f"about {calls} calls are still needed, cost about {cost:.4g}"
        self._budget.check(self._budget.calls + calls, self._budget.cost + cost, what)

    async def judge(self, item: Item) -> Opinion:
        """Return the model's verdict; replies that are none are asked for again a few times.

        Raises:
            ConfigError: The endpoint refuses, another model answers, or a limit is reached.
            NetworkError: A fault does not pass.
            Preempted: The process was asked to stop.
        """
        form, usage = self._form, Usage()
        for ask in range(ASKS):
            try:
                answer = await self._answered(call_of(self._choice, form, item, ask))
            except Refused as refused:
                raise refused.fault.error(self._choice.endpoint) from None
            usage += answer.usage
            if settles(form, answer.reply):
                break

        usage = dataclasses.replace(usage, cached=int(usage.attempts == 0), model=self._traits.model)
        reading = form.verdict(answer.reply)
        if reading.p_first is None:
            return Opinion("invalid", None, reading.detail, usage)
        return dataclasses.replace(opinion_of(reading.p_first, reading.detail), usage=usage)

    async def _answered(self, call: Call) -> Answered:
        """Return the answer to a call from the cache, from an equal call in flight, or from the endpoint."""
        if payload := self._cache.get_many([call.key]).get(call.key):
            return Answered(Reply.of(payload), Usage(cached=1))
        if other := self._in_flight.get(call.key):
            return Answered((await asyncio.shield(other)).reply, Usage(cached=1))
        if self._choice.mode == "replay":
            raise ConfigError(f"a verdict is not in {self._choice.cache}, which is replayed", "run with `mode: live`")

        future = self._in_flight[call.key] = asyncio.ensure_future(self._paid(call))
        try:
            return await future
        finally:
            del self._in_flight[call.key]

    async def _paid(self, call: Call) -> Answered:
        """Make a call, and keep its answer before anybody sees it."""
        model = self._traits.model if "_traits" in vars(self) else ""
        try:
            answer = await self._open().ask(call.body, lambda reason: self._cache.fail(call.key, reason), model)
        except Refused as refused:
            if refused.fault.kind != ITEM:
                raise
            answer = Answered(Reply(refused.fault.text, "refused"), Usage(attempts=1))
        self._cache.put(call.key, answer.reply.payload(), answer.usage)
        return answer

    async def _submit(self, items: Sequence[Item]) -> None:
        """Have all that is missing answered by the batch API.

        Raises:
            NetworkError: Calls of a batch failed again and again.
        """
        batches = Batches(self._choice, self._cache, self._open(), self._traits.model, self._budget)
        await batches.collect()
        for _ in range(_BATCH_ROUNDS):
            missing = list(missing_calls(self._choice, self._form, items, self._cache, Survey()))
            if not missing:
                return
            await batches.answer(missing)
        if missing := list(missing_calls(self._choice, self._form, items, self._cache, Survey())):
            raise NetworkError(
                f"{len(missing)} calls of the batches failed", "run again: answers that came are kept in the cache"
            )

    def _open(self) -> Endpoint:
        if self._is_stopped:
            raise stopped()
        if self._endpoint is None:
            self._endpoint = Endpoint(self._choice, self._budget)
        return self._endpoint

    async def stop(self) -> None:
        """Begin no further call."""
        self._is_stopped = True
        if self._endpoint is not None:
            await self._endpoint.stop()

    async def close(self) -> None:
        """Close connections and the cache's file; both open again where they are needed."""
        if self._endpoint is not None:
            await self._endpoint.client.close()
            self._endpoint = None
        if cache := vars(self).pop("_cache", None):
            cache.close()
