"""Dropout on adapters' inputs that belongs to the token: the same whatever else is computed with it.

PEFT draws what is dropped from the process's generator, so another token budget, another number of ranks or a second
pass drops something else. Here it is a hash of the seed and step, the layer, the token's place in its own text and
the feature. So a step's gradient does not depend on how the step is cut, a prompt that several pairs share is dropped
from alike for all of them, and backward can tell again what forward dropped instead of keeping it.

Shapes: T tokens, rows of a layer's input; F its features.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor

_LAYER, _FEATURE = 0x85EBCA77, 0x27D4EB2F  # odd, so that multiples differ in all bits


class TokenDropout:
    """Which features of which tokens are dropped in the batch at hand."""

    def __init__(self) -> None:
        self._step = 0
        self._names_T: Tensor | None = None
        self._scored_Q: Tensor | None = None

    def begin(self, seed: int, step: int) -> None:
        """Drop by this seed and step from now on."""
        self._step = zlib.crc32(f"{seed} {step}".encode())

    def follow(self, names_T: Tensor, scored_Q: Tensor | None = None) -> None:
        """Drop for these tokens from now on, backward's second forward of them included.

        Args:
            names_T: What each token is called, `layout.Batch.name_T`.
            scored_Q: The places of those that a layer may be given alone.
        """
        self._names_T, self._scored_Q = names_T, scored_Q

    def names(self, tokens: int) -> Tensor | None:
        """Return what a layer's ``tokens`` rows are called in this step, int32 [T]; None for rows of unknown tokens."""
        found = self._names_T
        if found is not None and len(found) != tokens and self._scored_Q is not None:
            found = found[self._scored_Q]
        if found is None or len(found) != tokens:
            return None
        return _mixed(found ^ _signed(self._step))


def factors(names_T: Tensor, layer: int, features: int, share: float, dtype: torch.dtype) -> Tensor:
    """Return what a layer's input is multiplied with, [T, F]: 0 for about a ``share`` of it, else 1 / (1 - share)."""
    columns_F = torch.arange(1, features + 1, dtype=torch.int64, device=names_T.device) * _FEATURE + layer * _LAYER
    hash_TF = _mixed(names_T[:, None] ^ _mixed(columns_F.to(torch.int32)))
    is_kept_TF = hash_TF >= round((2 * share - 1) * 2**31)
    return is_kept_TF.to(dtype).mul_(1 / (1 - share))


def dropped(x: Tensor, names_T: Tensor, layer: int, share: float) -> Tensor:
    """Return a layer's input [.., F] times its :func:`factors`, which backward makes again."""
    apply: Any = _Dropped.apply
    found: Tensor = apply(x, names_T, layer, share)
    return found


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, names_T: Tensor, layer: int, share: float) -> Tensor:
        ctx.save_for_backward(names_T)
        ctx.layer, ctx.share = layer, share
        return x * factors(names_T, layer, x.shape[-1], share, x.dtype).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (names_T,) = ctx.saved_tensors
        (dx,) = grads
        return dx * factors(names_T, ctx.layer, dx.shape[-1], ctx.share, dx.dtype).view(dx.shape), None, None, None


def _mixed(x: Tensor) -> Tensor:
    """Return int32 numbers in which every bit depends on every bit of ``x`` (two rounds of multiply and shift)."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x *= 0x45D9F3B
    x ^= (x >> 16) & 0xFFFF
    x *= 0x45D9F3B
    x ^= (x >> 16) & 0xFFFF
    return x


def _signed(number: int) -> int:
    """Return the low 32 bits of a number as one of int32."""
    return (number + 2**31) % 2**32 - 2**31
