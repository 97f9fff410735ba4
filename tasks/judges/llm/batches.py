"""The batch API of an endpoint: calls are submitted as a file, waited for, and collected into the cache.

Before a batch is created, a tag is written into the cache, which the batch carries, too: a run that is killed at any
moment finds its batch again, and nothing is submitted twice.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from tasks.core.errors import ConfigError, NetworkError
from tasks.core.files import canonical_json, digest_of
from tasks.judges.llm.answer_cache import AnswerCache
from tasks.judges.llm.calls import Call
from tasks.judges.llm.endpoint import ATTEMPTS, Endpoint
from tasks.judges.llm.faults import BUSY, ITEM, PASSING, Fault, call_errors, fault_of, fault_of_status
from tasks.judges.llm.limits import Budget
from tasks.judges.llm.llm_choice import OpenAIJudge
from tasks.judges.llm.verdict_forms import Reply
from tasks.judges.protocol.protocol import Usage
from tasks.telemetry import log

_log = log.get_logger(__name__)
POLL_EVERY_S = 30.0
_MOST_CALLS, _MOST_BYTES = 50_000, 150_000_000  # of one batch
_ENDED = ("completed", "expired", "cancelled", "failed")
_TAG = "dpo_pipeline"


class Batches:
    """The batches of one judge, one after the other.

    Args:
        choice: The endpoint and its limits.
        cache: Takes the answers and the ids.
        endpoint: The connections.
        model: The model that must answer.
        budget: What may still be spent.
    """

    def __init__(self, choice: OpenAIJudge, cache: AnswerCache, endpoint: Endpoint, model: str, budget: Budget) -> None:
        self._choice, self._cache, self._endpoint = choice, cache, endpoint
        self._model, self._budget = model, budget
        self._fact = f"batch {digest_of([choice.endpoint, choice.model])}"

    async def answer(self, calls: Sequence[Call]) -> None:
        """Submit the calls and keep their answers; calls that fail are left out.

        Raises:
            ConfigError: The endpoint has no batch API or refuses the batch, or it may cost more than allowed.
            NetworkError: The endpoint did not answer.
            Preempted: The process was asked to stop; the batch goes on, and the next run collects it.
        """
        most = sum(
            self._choice.cost(len(canonical_json(call.body).encode()), call.body["max_tokens"]) for call in calls
        )
        what = f"the batch of {len(calls)} calls may cost up to {most:.4g}"
        self._budget.check(self._budget.calls + len(calls), self._budget.cost + most, what)
        self._budget.calls += len(calls)
        for lines in _parts(calls):
            await self._submit(lines)
            await self.collect()

    async def _submit(self, lines: bytes) -> None:
        tag = digest_of([lines.decode(), self._cache.fact("batches") or 0])[:32]
        client = self._endpoint.client
        upload = await self._made(lambda: client.files.create(file=("calls.jsonl", lines), purpose="batch"))
        self._cache.set_fact(self._fact, {"tag": tag})
        about = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": {_TAG: tag}}
        batch = await self._made(lambda: client.batches.create(input_file_id=upload.id, **about))
        self._cache.set_fact(self._fact, {"tag": tag, "id": batch.id})
        self._cache.set_fact("batches", (self._cache.fact("batches") or 0) + 1)
        _log.info("submitted the batch %s of %d calls", batch.id, lines.count(b"\n"))

    async def collect(self) -> None:
        """Wait for the batch that was submitted last, if any, and keep its answers.

        Raises:
            ConfigError: The endpoint refused the batch, or another model answered.
            NetworkError: The endpoint did not answer.
            Preempted: The process was asked to stop.
        """
        if not (fact := self._cache.fact(self._fact)):
            return
        if not (identity := fact.get("id") or await self._id_of(fact["tag"])):
            self._cache.set_fact(self._fact, None)  # it was never created
            return
        batch = await self._ended(identity)
        for file in (batch.output_file_id, batch.error_file_id):
            if file:
                content = await self._asked(functools.partial(self._endpoint.client.files.content, file))
                for line in content.text.split("\n"):
                    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):  # a line that is broken
                        self._keep(line)

        self._cache.set_fact(self._fact, None)
        if batch.status == "failed":
            reason = self._endpoint.clean(str(getattr(batch.errors, "data", None) or "no reason given"))
            raise ConfigError(f"the endpoint refused the batch {identity} ({reason[:300]})", "use `mode: live`")

    async def _id_of(self, tag: str) -> str | None:
        """Return the id of the batch that was created with a tag, though this process did not hear of it."""
        page = await self._asked(lambda: self._endpoint.client.batches.list(limit=100))
        return next((batch.id for batch in page.data if (batch.metadata or {}).get(_TAG) == tag), None)

    async def _ended(self, identity: str) -> Any:
        batches = self._endpoint.client.batches
        while (batch := await self._asked(lambda: batches.retrieve(identity))).status not in _ENDED:
            if counts := batch.request_counts:
                _log.info("batch %s: %s, %d of %d calls", identity, batch.status, counts.completed, counts.total)
            await self._endpoint.sleep(POLL_EVERY_S)
        return batch

    def _keep(self, line: str) -> None:
        """Keep the answer in a line of a batch's output; the call of a line that holds none stays missing."""
        entry = json.loads(line)
        key, response = str(entry["custom_id"]), entry.get("response") or {}
        body, status = response.get("body"), int(response.get("status_code") or 0)
        if status != 200:
            fault = fault_of_status(status, entry.get("error") or body, self._endpoint.clean)
            self._cache.fail(key, fault.text)
            if fault.kind == ITEM:
                self._cache.put(key, Reply(fault.text, "refused").payload(), Usage(attempts=1))
            return

        outcome = self._endpoint.read(body, 0)
        if isinstance(outcome, Fault):
            self._cache.fail(key, outcome.text)
            return
        if outcome.usage.model != self._model:
            self._cache.fail(key, f"answered by {outcome.usage.model!r}")
            raise ConfigError(
                f"a batch for the model {self._model!r} was answered by {outcome.usage.model!r}",
                f"if that is meant, write `winrate.judge.answered_as: {outcome.usage.model}`",
            )
        self._budget.spend(outcome.usage.cost)
        usage = outcome.usage + Usage(attempts=1, model=outcome.usage.model)
        self._cache.put(key, outcome.reply.payload(), usage)

    async def _asked(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Return the answer to a question, which is asked again where a fault may pass."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await call()
            except call_errors() as error:
                fault = fault_of(error, self._endpoint.clean)
                if fault.kind not in (PASSING, BUSY):
                    raise fault.error(self._choice.endpoint) from None
                await self._endpoint.sleep((fault.retry_after or 0.0) + min(20.0, 0.5 * 2**attempt))
        raise NetworkError(f"{self._choice.endpoint} does not answer ({fault.text})", "run again")

    async def _made(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Return what a call made. It is not repeated: the endpoint may have done it, and the next run looks."""
        try:
            return await call()
        except call_errors() as error:
            fault = fault_of(error, self._endpoint.clean)
            if fault.kind in (PASSING, BUSY):
                raise NetworkError(
                    f"{self._choice.endpoint} took no batch ({fault.text})", "run again: nothing is submitted twice"
                ) from None
            raise ConfigError(
                f"{self._choice.endpoint} takes no batches ({fault.text})", "use `mode: live`, or another endpoint"
            ) from None


def _parts(calls: Sequence[Call]) -> Iterator[bytes]:
    """Yield the calls as files of the batch API, each within its limits."""
    lines: list[bytes] = []
    size = 0
    for call in calls:
        entry = {"custom_id": call.key, "method": "POST", "url": "/v1/chat/completions", "body": call.body}
        line = canonical_json(entry).encode() + b"\n"
        if lines and (len(lines) == _MOST_CALLS or size + len(line) > _MOST_BYTES):
            yield b"".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    yield b"".join(lines)
