"""The operations of lean LoRA layers, each with its backward written out.

The adapters' float32 weights, which are small, are cast to the activations' type, and the update is added in place:

    y = x Wᵀ + b + s (x Aᵀ) Bᵀ      dx = dy W + s (dy B) A      dA = s (dy B)ᵀ x      dB = s dyᵀ (x Aᵀ)

The down projection of a gated feed-forward part saves gate and up, and computes its x = silu(gate) ∘ up from them again
in backward.

Shapes: x [T, in], W [out, in], A [r, in], B [out, r], y [T, out].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.dpo.model.cpu_bfloat16 import as_factor, product_for_gradients


class LoraLinear(torch.autograd.Function):
    """y = x Wᵀ + b + s (x Aᵀ) Bᵀ; gradients for x, A and B."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, in_place: bool
    ) -> Tensor:
        """Return y [.., out] in the type of x [.., in]."""
        rows = as_factor(x.reshape(-1, x.shape[-1]), weight.dtype)
        y, low = _products(rows, weight, bias, a, b, scale, in_place)
        ctx.save_for_backward(rows, low, weight, a, b)
        ctx.scale = scale
        return shaped(y, x.shape, x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, A and B, the latter two in float32."""
        rows, low, weight, a, b = ctx.saved_tensors
        dy = as_factor(grads[0].reshape(-1, grads[0].shape[-1]), weight.dtype)
        d_low, da, db = adapter_gradients(dy, rows, low, b, ctx.scale, ctx.needs_input_grad[3:5])
        dx = None
        if ctx.needs_input_grad[0]:
            dx = shaped((dy @ weight).addmm_(d_low, a.to(dy.dtype)), grads[0].shape, grads[0].dtype)
        return dx, None, None, da, db, None, None


class GatedLoraLinear(torch.autograd.Function):
    """y = x Wᵀ + b + s (x Aᵀ) Bᵀ of x = silu(gate) ∘ up; gradients for gate, up, A and B."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, places: torch.Size, dtype: torch.dtype, *operands: Any) -> Tensor:
        """Return y [*places, out] in ``dtype``, for gate and up [T or more, in] in the type of products.

        ``operands`` are those of :class:`LoraLinear`, from its weight on.
        """
        weight, _, a, b, ctx.scale, _ = operands
        y, low = _products(F.silu(gate.float()).mul_(up.float()).to(weight.dtype), *operands)
        ctx.save_for_backward(gate, up, low, weight, a, b)
        return shaped(y, (*places, up.shape[-1]), dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of gate, up, A and B, the latter two in float32."""
        gate, up, low, weight, a, b = ctx.saved_tensors
        dy = as_factor(grads[0].reshape(-1, grads[0].shape[-1]), weight.dtype)
        gate, up, dtype = gate.float(), up.float(), gate.dtype

        silu = F.silu(gate)
        rows = (silu * up).to(dtype)
        d_low, da, db = adapter_gradients(dy, rows, low, b, ctx.scale, ctx.needs_input_grad[6:8])

        dx = (dy @ weight).addmm_(d_low, a.to(dy.dtype)).float()
        d_up = silu.mul_(dx).to(dtype)
        d_gate = torch.ops.aten.silu_backward(dx.mul_(up), gate).to(dtype)
        return d_gate, d_up, None, None, None, None, da, db, None, None


class LoraUpdate(torch.autograd.Function):
    """y = base + s (x Aᵀ) Bᵀ; gradients for base, x, A and B."""

    @staticmethod
    def forward(ctx: Any, base: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        """Return y [.., out] in the type of x [.., in]; base is [.., out]."""
        rows = x.reshape(-1, x.shape[-1])
        low = rows @ a.to(x.dtype).t()
        ctx.save_for_backward(rows, low, a, b)
        ctx.scale = scale
        y = base.reshape(-1, base.shape[-1]).addmm(low, b.to(x.dtype).t(), alpha=scale)
        return shaped(y, base.shape, base.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of base, x, A and B, the latter two in float32."""
        rows, low, a, b = ctx.saved_tensors
        dy = grads[0].reshape(-1, grads[0].shape[-1])
        d_low, da, db = adapter_gradients(dy, rows, low, b, ctx.scale, ctx.needs_input_grad[2:4])
        dx = (d_low @ a.to(dy.dtype)).view(*grads[0].shape[:-1], -1) if ctx.needs_input_grad[1] else None
        return grads[0], dx, da, db, None


def _products(
    rows: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float, in_place: bool
) -> tuple[Tensor, Tensor]:
    """Return y [T, out], and x Aᵀ [T, r], for x [T, in]."""
    low = rows @ a.to(rows.dtype).t()
    y = F.linear(rows, weight, bias)
    return (y.addmm_ if in_place else y.addmm)(low, b.to(rows.dtype).t(), alpha=scale), low


def shaped(rows: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return the rows of a product, [T or more, n], as [.., n] in ``dtype``, for a ``shape`` [.., any] of T rows.

    The result of a custom backward must not be a view, for some families change it in place afterwards (OLMo clips its
    queries). torch reshapes the results of its own products the same way, and autograd does not count them as views.
    """
    places = shape[:-1]
    return torch.ops.aten._unsafe_view(rows[: math.prod(places)].to(dtype), (*places, rows.shape[-1]))  # type: ignore[no-any-return]


def adapter_gradients(
    dy: Tensor, rows: Tensor, low: Tensor, b: Tensor, scale: float, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return s dy B, from which dx is computed, and those gradients of A and B that are wanted, in float32."""
    d_low = (dy @ b.to(dy.dtype)).mul_(scale)
    da = product_for_gradients(d_low.t(), rows) if wanted[0] else None
    db = product_for_gradients(dy.t(), low).mul_(scale) if wanted[1] else None
    return d_low, da, db
