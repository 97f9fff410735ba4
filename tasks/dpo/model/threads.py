"""How many CPU threads a model is computed with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

# Below this many parameters the work between two barriers is too short for a second thread: it gains little on free
# cores, and takes five to twenty times as long where other programs use one. The sums of one thread are also the same
# on every machine, whatever its number of cores.
ONE_THREAD_BELOW = 10_000_000


@contextlib.contextmanager
def suited_threads(model: Any) -> Iterator[None]:
    """Compute on one CPU thread for a block if ``model`` is small, then restore the process's number of threads."""
    before = torch.get_num_threads()
    if next(model.parameters()).device.type == "cpu" and sum(p.numel() for p in model.parameters()) < ONE_THREAD_BELOW:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
