"""How many CPU threads a model is worth."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

# Below so many parameters the work between two barriers is too short to share: a second thread gives little where
# the cores are free and costs five to twenty times where other programs hold one. One thread's sums are also the
# same on every machine, whatever its number of cores.
ONE_THREAD_BELOW = 10_000_000


@contextlib.contextmanager
def suited_threads(model: Any) -> Iterator[None]:
    """Work on one CPU thread while ``model`` is small, and give the process its own number back."""
    before = torch.get_num_threads()
    if next(model.parameters()).device.type == "cpu" and sum(p.numel() for p in model.parameters()) < ONE_THREAD_BELOW:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
