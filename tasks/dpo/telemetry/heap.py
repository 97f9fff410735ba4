"""What the C library's heap keeps of freed tensors: given back to the system when it has grown, and only then.

glibc keeps what large tensors leave behind, in pieces that tensors of other sizes may not fit, so that a process of
steps of many lengths grows. To give everything back after each step costs more than it saves: the next step takes the
same pages again one by one, each zeroed by the kernel, which is 3 to 8 % of a step's time on a CPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

# A heap that holds so many times what a step leaves behind that began with an empty one has gone to pieces.
_GROWN = 1.1


def resident_bytes() -> int:
    """Return the bytes of this process in memory; 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def release() -> None:
    """Give pages that hold nothing any more back to the system; without glibc nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Heap:
    """Watches what steps leave behind.

    Args:
        held: Tells the bytes in memory.
        give_back: Gives back what holds nothing.
    """

    def __init__(self, held: Callable[[], int] = resident_bytes, give_back: Callable[[], None] = release) -> None:
        self._held, self._give_back = held, give_back
        self._most, self._is_fresh = 0, False

    def after_step(self) -> None:
        """Give free memory back if it has grown by a tenth over the most that a step left which began without any."""
        held = self._held()
        if self._is_fresh:
            self._most = max(self._most, held)
        self._is_fresh = held > _GROWN * self._most
        if self._is_fresh:
            self._give_back()
