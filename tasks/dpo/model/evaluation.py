"""Evaluation mode for a while: what measures a model must not leave it in another mode than it found it in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Put every module in evaluation mode for a block, then each back in the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
