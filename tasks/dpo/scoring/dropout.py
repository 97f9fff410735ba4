"""Dropout on adapters' inputs that depends on the token alone, whatever is computed beside it.

PEFT draws the dropped features from the process's generator, so they change with the token budget, the number of ranks
and each pass. Here they follow from a hash of seed and step, layer, the token's text and place in it, and feature. So
a step's gradient does not depend on how the step is cut into micro-batches, a prompt that several pairs share has the
same features dropped for all of them, and backward computes the mask again instead of saving it.

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
        self._hash_T: Tensor | None = None

    def begin(self, seed: int, step: int) -> None:
        """Set the seed and step."""
        number = zlib.crc32(f"{seed} {step}".encode())
        self._step = (number + 2**31) % 2**32 - 2**31  # the same 32 bits, read as an int32

    def follow(self, hash_T: Tensor) -> None:
        """Set the batch's token hashes (`layout.Batch.hash_T`), for forward and what backward computes again."""
        self._hash_T = hash_T

    def hashes(self, tokens: int) -> Tensor | None:
        """Return a hash per token for this step, int32 [T]; None where the batch has other than ``tokens``."""
        if self._hash_T is None or len(self._hash_T) != tokens:
            return None
        return _mixed(self._hash_T ^ self._step)


def factors(hash_T: Tensor, layer: int, features: int, share: float, dtype: torch.dtype) -> Tensor:
    """Return the factors of a layer's input, [T, F]: 0 for about a ``share`` of them, else 1 / (1 - share)."""
    columns_F = torch.arange(1, features + 1, dtype=torch.int64, device=hash_T.device) * _FEATURE + layer * _LAYER
    hash_TF = _mixed(hash_T[:, None] ^ _mixed(columns_F.to(torch.int32)))
    is_kept_TF = hash_TF >= round((2 * share - 1) * 2**31)
    return is_kept_TF.to(dtype).mul_(1 / (1 - share))


def dropped(x: Tensor, hash_T: Tensor, layer: int, share: float) -> Tensor:
    """Return a layer's input [.., F] times its :func:`factors`, which backward computes again."""
    apply: Any = _Dropped.apply
    left: Tensor = apply(x, hash_T, layer, share)
    return left


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, hash_T: Tensor, layer: int, share: float) -> Tensor:
        ctx.save_for_backward(hash_T)
        ctx.layer, ctx.share = layer, share
        return x * factors(hash_T, layer, x.shape[-1], share, x.dtype).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (hash_T,) = ctx.saved_tensors
        (dx,) = grads
        return dx * factors(hash_T, ctx.layer, dx.shape[-1], ctx.share, dx.dtype).view(dx.shape), None, None, None


def _mixed(x: Tensor) -> Tensor:
    """Return int32 hashes in which every bit depends on every bit of ``x`` (two rounds of multiply and shift)."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x *= 0x45D9F3B
    x ^= (x >> 16) & 0xFFFF
    x *= 0x45D9F3B
    x ^= (x >> 16) & 0xFFFF
    return x
