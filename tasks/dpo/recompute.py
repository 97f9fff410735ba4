"""What backward computes again to save memory: nothing, what is cheap, or every layer from its input.

The middle level keeps the results of matrix products and of attention, which are most of the work, and computes
norms, rotations, activation functions and products of elements again. What is kept is decided operation by
operation, below autograd, so it holds for any family and for adapters written as autograd functions.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import Any

from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

# How far the inner dimension of a product may fall below its width before its result costs more to keep than to
# compute again: what an adapter adds to a layer is such a product.
_WIDE = 8
_PRODUCTS = {"aten.mm.default": 0, "aten.addmm.default": 1}  # and the place of the left factor


def selective_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what torch's checkpoint runs the forward in, and the second forward: the level between none and full."""
    make: Any = create_selective_checkpoint_contexts
    contexts: tuple[AbstractContextManager[None], AbstractContextManager[None]] = make(_policy)
    return contexts


def _policy(_context: Any, operation: Any, *arguments: Any, **_options: Any) -> CheckpointPolicy:
    kind = _kind(operation)
    if kind is None:
        return CheckpointPolicy.PREFER_RECOMPUTE
    if kind >= 0:
        inner, width = arguments[kind + 1].shape
        if width > _WIDE * inner:
            return CheckpointPolicy.PREFER_RECOMPUTE
    return CheckpointPolicy.MUST_SAVE


@functools.cache
def _kind(operation: Any) -> int | None:
    """Return the place of a product's left factor, -1 for attention, None for what is computed again."""
    name = str(operation)
    if name in _PRODUCTS:
        return _PRODUCTS[name]
    # scaled_dot_product_… of torch, _varlen_attn, flash_attn's own: all kernels, and nothing else, are called so
    return -1 if "attention" in name or "attn" in name else None
