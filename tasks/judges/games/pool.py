"""Many items at a judge at once: a new one starts as soon as any is done, and the opinions come in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator

from tasks.core.errors import Preempted
from tasks.core.stopping import StopRequest, listen_for_stop
from tasks.judges.protocol.protocol import Item, Opinion, PairJudge

_AHEAD = 4096  # items begun or done before the oldest of them is; bounds memory


def opinions(judge: PairJudge, items: Iterable[Item]) -> Iterator[Opinion]:
    """Yield a judge's opinion on each item, in order; up to its `at_once` items are with the judge at any time.

    Told to stop by SIGTERM or SIGINT, or by an error of the judge, it starts no further item and waits for those that
    are with the judge.

    Raises:
        Preempted: The process was asked to stop.
        PipelineError: The judge cannot go on.
    """
    with listen_for_stop() as stop, asyncio.Runner() as runner:
        pool = _Pool(judge, iter(items), stop)
        try:
            while ready := runner.run(pool.next_ready()):
                yield from ready
        finally:
            runner.run(pool.drain())


class _Pool:
    def __init__(self, judge: PairJudge, items: Iterator[Item], stop: StopRequest) -> None:
        self._judge, self._items, self._stop = judge, items, stop
        self._free = asyncio.Semaphore(max(1, getattr(judge, "at_once", 1)))
        self._begun: deque[asyncio.Task[Opinion]] = deque()
        self._is_closed = False

    async def next_ready(self) -> list[Opinion]:
        """Return the opinions that are next in order, at least one; none when all items are done."""
        for item in self._items:
            self._begun.append(asyncio.create_task(self._ask(item)))
            if len(self._begun) >= _AHEAD:
                break
        ready = [await self._begun.popleft()] if self._begun else []
        while self._begun and self._begun[0].done():
            ready.append(await self._begun.popleft())
        return ready

    async def _ask(self, item: Item) -> Opinion:
        async with self._free:
            if self._stop.is_set or self._is_closed:
                raise Preempted("judging was stopped; what the judge caches is kept", "run again")
            try:
                return await self._judge.judge(item)
            except BaseException:
                self._is_closed = True
                raise

    async def drain(self) -> None:
        """Wait for what is with the judge; what is not yet is dropped."""
        self._is_closed = True
        await asyncio.gather(*self._begun, return_exceptions=True)
