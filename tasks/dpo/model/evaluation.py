"""Evaluation mode for a block: code that measures a model must leave every module in the mode that it had."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Put every module in evaluation mode for a block, then restore each module's mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
