"""Return freed memory to the OS (malloc_trim) when the process has grown by 10 %.

glibc keeps the memory of freed tensors in pieces that tensors of other sizes may not fit, so a process whose steps
have many lengths grows. Returning everything after each step costs more than it saves: the next step faults the same
pages in again one by one, each zeroed by the kernel, which takes 3 to 8 % of a step's time on a CPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

# Memory is returned when the process holds this many times what a step left that began with a trimmed heap.
_GROWN = 1.1


def resident_bytes() -> int:
    """Return the resident bytes of this process; 0 where the system does not report them."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def release() -> None:
    """Return the pages of freed memory to the OS; without glibc nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Heap:
    """Watches the resident memory after each step.

    Args:
        resident: Returns the resident bytes.
        trim: Returns freed memory to the OS.
    """

    def __init__(self, resident: Callable[[], int] = resident_bytes, trim: Callable[[], None] = release) -> None:
        self._resident, self._trim = resident, trim
        self._largest, self._was_trimmed = 0, False

    def after_step(self) -> None:
        """Trim the heap if the process is 10 % larger than after any step that began with a trimmed heap."""
        resident = self._resident()
        if self._was_trimmed:
            self._largest = max(self._largest, resident)
        self._was_trimmed = resident > _GROWN * self._largest
        if self._was_trimmed:
            self._trim()
