"""Many items at a judge at once: a new one starts as soon as any is done, and the opinions come in order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Iterable
from typing import Any, TypeVar

from tasks.core.errors import Preempted
from tasks.core.stopping import StopRequest, listen_for_stop
from tasks.judges.protocol.protocol import Item, Opinion, PairJudge

T = TypeVar("T")
_AHEAD = 4096  # items begun or done before the oldest of them is; bounds memory
_LOOK_EVERY_S = 0.1  # for a request to stop, which wakes nobody by itself


def opinions(judge: PairJudge, items: Iterable[Item]) -> Generator[Opinion, None, None]:
    """Yield a judge's opinion on each item, in order; up to its `at_once` items are with the judge at any time.

    Told to stop by SIGTERM or SIGINT, or by an error of the judge, it starts no further item and waits for those that
    are with the judge. A second SIGINT interrupts those, too.

    Raises:
        Preempted: The process was asked to stop.
        PipelineError: The judge cannot go on.
    """
    with listen_for_stop() as stop, asyncio.Runner() as runner:
        pool = _Pool(judge, items, stop)
        try:
            while ready := runner.run(pool.next_ready()):
                yield from ready
        except KeyboardInterrupt:
            raise  # the runner cancels what is with the judge
        except BaseException:
            runner.run(pool.drain())
            raise
        runner.run(pool.drain())
        _end_if_asked(stop)


def finish(judge: PairJudge, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of a judge's own work; a request to stop reaches the judge while it runs.

    Raises:
        Preempted: The process was asked to stop.
        PipelineError: The judge cannot go on.
    """

    async def watched() -> T:
        watcher = asyncio.create_task(_tell_of_stop(judge, stop))
        try:
            return await work
        finally:
            watcher.cancel()
            await _close(judge)

    with listen_for_stop() as stop, asyncio.Runner() as runner:
        result = runner.run(watched())
        _end_if_asked(stop)
        return result


def _end_if_asked(stop: StopRequest) -> None:
    if stop.is_set:
        raise Preempted("judging was stopped; what the judge caches is kept", "run again")


async def _tell_of_stop(judge: PairJudge, stop: StopRequest) -> None:
    while not stop.is_set:
        await asyncio.sleep(_LOOK_EVERY_S)
    await _stop(judge)


async def _stop(judge: PairJudge) -> None:
    if method := getattr(judge, "stop", None):
        await method()


async def _close(judge: PairJudge) -> None:
    if method := getattr(judge, "close", None):
        await method()


class _Pool:
    """Workers that take items from one iterator, and the opinions that are not fetched yet."""

    def __init__(self, judge: PairJudge, items: Iterable[Item], stop: StopRequest) -> None:
        self._judge, self._stop = judge, stop
        self._items = enumerate(items)
        self._at_once = max(1, getattr(judge, "at_once", 1))
        self._workers: list[asyncio.Task[None]] = []
        self._watcher: asyncio.Task[None] | None = None
        self._done: dict[int, Opinion] = {}
        self._next = 0  # number of the opinion that is fetched next
        self._fault: BaseException | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()  # an opinion, a fault, or the end of a worker
        self._fetched = asyncio.Event()

    async def next_ready(self) -> list[Opinion]:
        """Return the opinions that are next in order; none when all items are done, or no more are begun."""
        if self._watcher is None:
            self._watcher = asyncio.create_task(_tell_of_stop(self._judge, self._stop))
            self._workers = [asyncio.create_task(self._work()) for _ in range(self._at_once)]
            for worker in self._workers:
                worker.add_done_callback(self._ended)
        while self._next not in self._done:
            if self._fault:
                raise self._fault
            if all(worker.done() for worker in self._workers):
                return []
            self._changed.clear()
            await self._changed.wait()

        ready = []
        while self._next in self._done:
            ready.append(self._done.pop(self._next))
            self._next += 1
        self._fetched.set()
        return ready

    async def _work(self) -> None:
        while not self._is_stopped() and (entry := next(self._items, None)):
            number, item = entry
            while number - self._next >= _AHEAD and not self._is_stopped():
                self._fetched.clear()
                await self._fetched.wait()
            if self._is_stopped():
                return

            self._done[number] = await self._judge.judge(item)
            self._changed.set()

    def _is_stopped(self) -> bool:
        return self._stop.is_set or self._fault is not None

    def _ended(self, worker: asyncio.Task[None]) -> None:
        """Remember the first error of a worker, which ends the others; those that follow come of that."""
        error = None if worker.cancelled() else worker.exception()
        if error is not None:
            self._fetched.set()
            if self._fault is None:
                self._fault = error
                self._stopping = asyncio.get_running_loop().create_task(_stop(self._judge))
        self._changed.set()

    async def drain(self) -> None:
        """Wait for what is with the judge; what is not yet is dropped."""
        self._fault = self._fault or Preempted("judging ended early", "run again")
        self._fetched.set()
        await asyncio.gather(*self._workers, return_exceptions=True)
        if self._watcher is not None:
            self._watcher.cancel()
        await _close(self._judge)
