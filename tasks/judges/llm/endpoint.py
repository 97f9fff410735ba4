"""Calls to an endpoint of OpenAI's chat API: paced, retried where a fault may pass, stopped where it cannot."""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tasks.core.errors import ConfigError, NetworkError, printable
from tasks.judges.llm.api_key import read_key, without_key
from tasks.judges.llm.faults import BUSY, PASSING, Fault, call_errors, fault_of, no_completion
from tasks.judges.llm.limits import Budget, Pace, Window, stopped
from tasks.judges.llm.llm_choice import OpenAIJudge
from tasks.judges.llm.verdict_forms import Reply
from tasks.judges.protocol.protocol import Usage
from tasks.telemetry import log

_log = log.get_logger(__name__)
ATTEMPTS = 10  # of one call
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 20.0  # between attempts, doubled each time
_LONGEST_ASKED_S = 120.0  # a server that asks to wait longer stops the run, which may be resumed
_FEWEST_IN_A_ROW = 20  # failed calls without a success between that stop the run; more where many are in flight
_SAID_AT = (4, 16, 64, 256)  # so many of those
_MOST_TOKENS = 10**9  # of one call; a server that tells more tells nonsense
_DATE = re.compile(r"[-@](\d{4}-?\d{2}-?\d{2}|\d{4})")  # behind a model's name


class Answered(NamedTuple):
    """A reply and what it took."""

    reply: Reply
    usage: Usage


class Refused(Exception):
    """The endpoint does not take this request; another form of it may do."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.text)
        self.fault = fault


class Endpoint:
    """One event loop's connections to an endpoint.

    Args:
        choice: The endpoint, its model and limits.
        budget: What may still be spent.

    Raises:
        ConfigError: The `openai` package is missing, or there is no key.
    """

    def __init__(self, choice: OpenAIJudge, budget: Budget) -> None:
        self._choice, self._budget = choice, budget
        self._key = read_key(choice)
        self.client = open_client(choice, self._key)
        self._window = Window(choice.at_once)
        self._requests, self._tokens = Pace(choice.requests_per_minute), Pace(choice.tokens_per_minute)
        self._stop = asyncio.Event()
        self._in_a_row = 0

    async def stop(self) -> None:
        """Begin no further call; those that are in flight go on."""
        self._stop.set()
        await self._window.stop()

    async def ask(self, body: Mapping[str, Any], record: Callable[[str], None], model: str = "") -> Answered:
        """Send a request until it is answered.

        Args:
            body: The request.
            record: Takes the reason of each failed call.
            model: The model that must answer; empty for any that the params allow.

        Raises:
            Refused: The server does not take the request.
            ConfigError: A limit is reached, or another model answers.
            NetworkError: The fault does not pass.
            Preempted: :meth:`stop` was called.
        """
        began, fault = time.monotonic(), None
        for attempt in range(1, ATTEMPTS + 1):
            outcome = await self._attempt(body)
            if isinstance(outcome, Answered):
                self._in_a_row = 0
                reply, usage = outcome
                self._check_model(usage.model, model, record)
                seconds = round(time.monotonic() - began, 3)
                return Answered(reply, usage + Usage(seconds=seconds, attempts=attempt, model=usage.model))

            fault = outcome
            record(fault.text)
            if fault.kind not in (PASSING, BUSY):
                raise Refused(fault)
            self._count(fault)
            await self.sleep(self._wait_of(fault, attempt))
        raise NetworkError(
            f"{self._choice.endpoint} failed {ATTEMPTS} times at one call ({fault.text if fault else ''})",
            "run again: finished calls are kept; if it times out, raise `winrate.judge.timeout_s`",
        )

    async def _attempt(self, body: Mapping[str, Any]) -> Answered | Fault:
        """Make one call when there is a place, a minute and a budget for it."""
        size = sum(len(message["content"].encode()) for message in body["messages"]) + 100
        async with self._window.place() as place:
            await self.sleep(max(self._requests.delay(1), self._tokens.delay(size / 4 + body["max_tokens"])))
            while self._budget.is_tight(size, body["max_tokens"]):
                await self.sleep(0.05)
            with self._budget.booked(size, body["max_tokens"]):
                try:
                    data = await self.client.post("/chat/completions", cast_to=object, body=body)
                    outcome = self.read(data, size)
                except call_errors() as error:
                    outcome = fault_of(error, self.clean)
                if isinstance(outcome, Fault):
                    if outcome.kind == BUSY:
                        self._window.halve(place)
                    return outcome
                self._budget.spend(outcome.usage.cost)

        self._tokens.give_back(size / 4 + body["max_tokens"] - outcome.usage.tokens_in - outcome.usage.tokens_out)
        self._window.widen()
        return outcome

    def read(self, data: Any, size: int) -> Answered | Fault:
        """Return the reply in a chat completion; a fault where it is none.

        Args:
            data: What the endpoint answered.
            size: The most tokens that the prompt can have, which counts where the endpoint tells none.
        """
        try:
            return Answered(_reply_of(data, self.clean), self._usage_of(data, size))
        except (KeyError, TypeError, IndexError, ValueError, AttributeError, OverflowError):
            return no_completion(data, self.clean)

    def _usage_of(self, data: Any, size: int) -> Usage:
        used = data.get("usage") or {}
        counts = (used.get("prompt_tokens") or size, used.get("completion_tokens") or 0)
        tokens_in, tokens_out = (min(max(int(count), 0), _MOST_TOKENS) for count in counts)
        model = self.clean(str(data.get("model") or self._choice.answered_as or self._choice.model))
        return Usage(tokens_in, tokens_out, self._choice.cost(tokens_in, tokens_out), model=model)

    def clean(self, text: str) -> str:
        """Return a server's text without the key, and as UTF-8 can hold it."""
        return printable(without_key(text, self._key))

    def _count(self, fault: Fault) -> None:
        """Stop the run after many failures in a row.

        Raises:
            NetworkError: The endpoint is down, or asks to wait for too long.
        """
        self._in_a_row += fault.kind == PASSING
        if fault.kind == PASSING and self._in_a_row in _SAID_AT:
            _log.warning(
                "%s failed %d times in a row (%s); trying again", self._choice.endpoint, self._in_a_row, fault.text
            )
        if self._in_a_row >= max(_FEWEST_IN_A_ROW, 5 * self._choice.at_once):
            raise NetworkError(
                f"{self._choice.endpoint} failed {self._in_a_row} times in a row ({fault.text})",
                "run again when it works: finished calls are kept",
            )
        if (fault.retry_after or 0.0) > _LONGEST_ASKED_S:
            raise NetworkError(
                f"{self._choice.endpoint} asks to wait for {fault.retry_after:.0f} s ({fault.text})",
                "run again then: finished calls are kept",
            )

    def _wait_of(self, fault: Fault, attempt: int) -> float:
        """Return the seconds until the next attempt, never fewer than the server asks for."""
        longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (attempt - 1))
        return (fault.retry_after or 0.0) + longest * random.uniform(0.5, 1)

    async def sleep(self, seconds: float) -> None:
        """Wait, but not beyond a request to stop.

        Raises:
            Preempted: :meth:`stop` was called.
        """
        if seconds > 0 and not self._stop.is_set():
            try:
                await asyncio.wait_for(self._stop.wait(), seconds)
            except TimeoutError:
                return
        if self._stop.is_set():
            raise stopped()

    def _check_model(self, answered: str, expected: str, record: Callable[[str], None]) -> None:
        """Refuse the answer of another model.

        Raises:
            ConfigError: Naming both.
        """
        asked = self._choice.answered_as or self._choice.model
        is_right = answered == expected if expected else is_same_model(asked, answered)
        if not is_right:
            record(f"answered by {answered!r}")
            raise ConfigError(
                f"{self._choice.endpoint} was asked for the model {expected or asked!r}, and {answered!r} answers",
                f"if that is meant, write `winrate.judge.answered_as: {answered}`; else correct `model`",
            )


def open_client(choice: OpenAIJudge, key: str) -> Any:
    """Return the `openai` package's asynchronous client, which retries nothing by itself.

    Raises:
        ConfigError: The package is missing.
    """
    try:
        import openai
    except ImportError as error:
        raise ConfigError(
            f"`winrate.judge` is of the kind `openai`, which needs the package openai ({error})",
            "install it: `pip install -c constraints.txt -e .[judge]`, or choose another judge",
        ) from None
    # a server without keys ignores it, and the client wants one
    key = key or "none"
    return openai.AsyncOpenAI(base_url=choice.endpoint, api_key=key, max_retries=0, timeout=choice.timeout_s)


def _reply_of(data: Any, clean: Callable[[str], str]) -> Reply:
    choice = data["choices"][0]
    message, content = choice["message"], choice["message"].get("content") or ""
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    top = _top((choice.get("logprobs") or {}).get("content") or [])
    finish, refusal = str(choice.get("finish_reason") or "stop"), str(message.get("refusal") or "")
    return Reply(clean(text), clean(finish), tuple((clean(token), value) for token, value in top), clean(refusal))


def _top(scored: list[dict[str, Any]]) -> list[tuple[str, float]]:
    """Return the alternatives of the first token that is no space; the one that was taken stands first."""
    for token in scored:
        if str(token["token"]).strip():
            likely: dict[str, float] = {}
            for one in (token, *(token.get("top_logprobs") or [])):
                likely.setdefault(str(one["token"]), float(one["logprob"]))
            return [(name, value) for name, value in likely.items() if math.isfinite(value)]
    return []


def is_same_model(asked: str, answered: str) -> bool:
    """Tell whether a model answers to the name that was asked for: the same, or with a date behind it."""
    return answered == asked or (answered.startswith(asked) and bool(_DATE.fullmatch(answered[len(asked) :])))
