"""How fast calls may begin, how many may be in flight, and how much they may cost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator

from tasks.core.errors import ConfigError, Preempted
from tasks.judges.llm.llm_choice import OpenAIJudge


class Pace:
    """Spreads amounts evenly over time, so that no minute holds more than it may.

    Args:
        per_minute: The most in a minute; None for no limit.
        clock: Seconds from any point on.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds_each = 60 / per_minute if per_minute else 0.0
        self._clock, self._next = clock, 0.0

    def delay(self, amount: float) -> float:
        """Book an amount, and return the seconds until it may begin."""
        now = self._clock()
        begin = max(now, self._next)
        self._next = begin + amount * self._seconds_each
        return begin - now

    def give_back(self, amount: float) -> None:
        """Take back what was booked and not used."""
        self._next -= amount * self._seconds_each


class Window:
    """Places for calls in flight: half as many after each refusal for too many, one more a round of successes.

    Args:
        most: The most places.
    """

    def __init__(self, most: int) -> None:
        self.size = float(most)
        self._most, self._busy, self._round = most, 0, 0
        self._is_stopped = False
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[int]:
        """Wait for a place and hold it; the value is the number of the round in which it was taken.

        Raises:
            Preempted: :meth:`stop` was called.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_stopped or self._busy < int(self.size))
            if self._is_stopped:
                raise stopped()
            self._busy += 1
        try:
            yield self._round
        finally:
            self._busy -= 1
            async with self._changed:
                self._changed.notify_all()

    def widen(self) -> None:
        """Note a success."""
        self.size = min(self._most, self.size + 1 / self.size)

    def halve(self, taken_in: int) -> None:
        """Note a refusal of a call that took its place in that round; calls of one round halve once."""
        if taken_in == self._round:
            self.size, self._round = max(1.0, self.size / 2), self._round + 1

    async def stop(self) -> None:
        """Let nobody in any more."""
        self._is_stopped = True
        async with self._changed:
            self._changed.notify_all()


class Budget:
    """What may still be spent. Each call books the most that it can take before it begins, so no limit is exceeded.

    Args:
        choice: Has the limits and the prices.
    """

    def __init__(self, choice: OpenAIJudge) -> None:
        self._choice = choice
        self.calls, self.cost = 0, 0.0
        self._booked, self._in_flight = 0.0, 0

    def begin(self, calls: int, cost: float) -> None:
        """Start from what earlier runs took for the same verdicts."""
        self.calls, self.cost = calls, cost

    @contextlib.contextmanager
    def booked(self, tokens_in: int, tokens_out: int) -> Iterator[None]:
        """Book one call of at most so many tokens, until the block ends.

        Raises:
            ConfigError: A limit would be exceeded.
        """
        most = self._choice.cost(tokens_in, tokens_out)
        self.check(self.calls + 1, self.cost + self._booked + most, "one more call would exceed it")
        self.calls += 1
        self._booked, self._in_flight = self._booked + most, self._in_flight + 1
        try:
            yield
        finally:
            self._in_flight -= 1
            self._booked = self._booked - most if self._in_flight else 0.0

    def is_tight(self, tokens_in: int, tokens_out: int) -> bool:
        """Tell whether a call has to wait: there is enough for it only if those in flight cost less than booked."""
        most = self.cost + self._booked + self._choice.cost(tokens_in, tokens_out)
        return self._choice.max_cost is not None and self._in_flight > 0 and most > self._choice.max_cost

    def spend(self, cost: float) -> None:
        """Note what a call cost."""
        self.cost += cost

    def check(self, calls: int, cost: float, what: str) -> None:
        """Refuse a number of calls or a cost beyond its limit.

        Raises:
            ConfigError: Naming the limit, what was spent and how to go on.
        """
        limits = (("max_calls", self._choice.max_calls, calls), ("max_cost", self._choice.max_cost, cost))
        for name, limit, value in limits:
            if limit is not None and value > limit:
                raise ConfigError(
                    f"`winrate.judge.{name}` is {limit:g}, and {what}: {self.calls} calls, cost {self.cost:.4g} so far",
                    f"raise it and run again, or judge fewer pairs; what was paid for is kept in {self._choice.cache}",
                )


def stopped() -> Preempted:
    """Return the error of a call that is not begun because the process was asked to stop."""
    return Preempted("judging was stopped; finished calls are kept in the cache", "run again")
