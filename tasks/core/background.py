"""Work in another thread: reading, hashing, compressing and writing run there beside Python code."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar, cast

T = TypeVar("T")
_MOST_WAITING = 2  # jobs; what they hold stays in memory
_END = object()


def ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield the items, the next of which is made in another thread meanwhile; an error of making one is raised here."""
    iterator = iter(items)
    with ThreadPoolExecutor(1) as thread:
        coming: Future[Any] = thread.submit(next, iterator, _END)
        while (item := coming.result()) is not _END:
            coming = thread.submit(next, iterator, _END)
            yield cast("T", item)


class Behind:
    """Does jobs one after the other in another thread; a context manager, at whose end all are done."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[Any]] = deque()

    def do(self, job: Callable[..., Any], *arguments: Any) -> None:
        """Add a job, and wait while too many others wait.

        Raises:
            Exception: What an earlier job raised; the end of the context raises it, too.
        """
        while len(self._waiting) >= _MOST_WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(job, *arguments))

    def end(self, is_failed: bool = False) -> None:
        """Wait until all jobs are done; after a failure, only until the one that has begun is."""
        with self._thread:
            if is_failed:
                self._thread.shutdown(cancel_futures=True)
                return
            while self._waiting:
                self._waiting.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.end(kind is not None)
