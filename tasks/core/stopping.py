"""SIGTERM and SIGINT as a request to stop, which training checks at the end of each optimizer step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Remembers that a signal asked the process to stop; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.is_set = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.is_set and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.is_set = True


@contextlib.contextmanager
def listen_for_stop() -> Iterator[StopRequest]:
    """Catch SIGTERM and SIGINT within the block (only the main thread may set handlers)."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    former = {number: signal.signal(number, request._handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
