"""Processes that make parts beside this one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, TypeVar

from tasks.core.errors import StorageError
from tasks.pairs.ingestion.placement import Placement

T = TypeVar("T")
_placement = Placement()  # of a process that makes parts


class PartProcesses(Generic[T]):
    """Processes that make parts; they start with the first part, and end with this process however it ends.

    The program's main module must be importable.

    Args:
        count: How many there are.
        placement: Is sent to each once, and is the last argument of ``make``.
        make: Makes a part; a function of a module.
    """

    def __init__(self, count: int, placement: Placement, make: Callable[..., T]) -> None:
        self._count, self._placement, self._make = count, placement, make
        self._pool: ProcessPoolExecutor | None = None

    def begin(self, *job: Any) -> Callable[[], T]:
        """Begin a part, and return what waits for it; ``job`` are the other arguments of ``make``.

        Raises:
            StorageError: A process was killed. Waiting raises it, too.
        """
        if self._pool is None:
            context = multiprocessing.get_context("forkserver")
            self._pool = ProcessPoolExecutor(self._count, context, _begin_process, (self._placement,))
        with _naming_a_kill():
            future = self._pool.submit(_run, self._make, job)

        def wait() -> T:
            with _naming_a_kill():
                return future.result()

        return wait

    def close(self) -> None:
        """End the processes, as soon as each has made the part that it has begun."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _naming_a_kill() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        what = "a process that reads rows was killed, which the system does where memory runs out"
        raise StorageError(what, "free some memory and run again") from None


def _begin_process(placement: Placement) -> None:
    """Prepare a process: an interrupt is for the main process alone, and none outlives that."""
    global _placement
    _placement = placement
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _run(make: Callable[..., T], job: tuple[Any, ...]) -> T:
    return make(*job, _placement)
