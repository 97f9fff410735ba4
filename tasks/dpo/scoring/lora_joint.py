"""Lean LoRA layers of one input, as one operation: queries, keys and values; a gate and a way up. On a CPU.

One by one, each reads x again for its thin product x Aᵀ, and gives a gradient of x's size that autograd then adds up.
Together, with A the layers' A one below the other and l = [s_1 dy_1 B_1 | s_2 dy_2 B_2 | ..]:

    y_i = x W_iᵀ + b_i + s_i (x A_iᵀ) B_iᵀ        dx = Σ dy_i W_i + l A
    dA = lᵀ x                                     dB_i = s_i dy_iᵀ (x A_iᵀ)

Shapes: x [.., in], W_i [out_i, in], A_i [r_i, in], B_i [out_i, r_i], y_i [.., out_i].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.dpo.model.cpu_bfloat16 import as_factor, product_of_slopes
from tasks.dpo.scoring.last_layer import is_for_scored
from tasks.dpo.scoring.lora import adapter_slopes, is_lean, plain_operands, shaped

_OF_ONE_INPUT = ("q_proj", "k_proj", "v_proj")  # in the order in which attention calls them


def together(layers: Sequence[Any], x: Tensor) -> list[Tensor] | None:
    """Return what every layer gives for the rows of ``x`` [.., in], as factors of the next product, [T or more, out].

    None where they cannot be one operation: one of them is no plain lean layer, or keeps what its base gives.
    """
    return _joint(layers, x, as_factors=True)


class Siblings:
    """Attention's projections of one input: the first one called works for all, the others find their result.

    Args:
        attention: What calls them, one after the other with the same tensor.
    """

    def __init__(self, attention: Any) -> None:
        self._attention = attention
        self._layers = projections(attention)
        self._input: Tensor | None = None
        self._results: dict[int, Tensor] = {}

    def result(self, layer: Any, x: Tensor) -> Tensor | None:
        """Return what ``layer`` gives for ``x``; None where it has to work by itself."""
        # queries of scored tokens alone have an input of their own
        layers = self._layers[1:] if is_for_scored(self._attention) else self._layers
        if layer is layers[0]:
            found = _joint(layers, x)
            self._input, self._results = x, dict(zip(map(id, layers), found or (), strict=False))
        mine = self._results.pop(id(layer), None) if x is self._input else None
        if not self._results:
            self._input = None
        return mine


class Sibling:
    """A projection that asks its siblings first, mixed into a class of lean layers."""

    siblings: Siblings

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return what the layer's own forward gives for ``x``."""
        is_alone = bool(args or kwargs) or torch.compiler.is_compiling()  # one graph serves all layers
        found = None if is_alone else self.siblings.result(self, x)
        y: Tensor = super().forward(x, *args, **kwargs) if found is None else found  # type: ignore[misc]
        return y


def projections(attention: Any) -> list[Any]:
    """Return the projections of one input that a module has, if it has all of them as layers with adapters, or []."""
    found = [getattr(attention, name, None) for name in _OF_ONE_INPUT]
    return found if all(is_lean(layer) for layer in found) else []


def _joint(layers: Sequence[Any], x: Tensor, as_factors: bool = False) -> list[Tensor] | None:
    """Return what the layers give for ``x``, None where one is no plain lean layer, or keeps what its base gives."""
    operands = [found for layer in layers if (found := plain_operands(layer)) is not None and found[-1]]
    if len(operands) < len(layers):
        return None
    weights, biases, downs, ups, scales, _ = zip(*operands, strict=True)
    apply: Any = JointLoraLinear.apply
    return list(apply(x, as_factors, scales, biases, *weights, *downs, *ups))


class JointLoraLinear(torch.autograd.Function):
    """y_i = x W_iᵀ + b_i + s_i (x A_iᵀ) B_iᵀ; gradients for x, A_i and B_i."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        as_factors: bool,
        scales: Sequence[float],
        biases: Sequence[Tensor | None],
        *factors: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return every y_i for x [.., in]; ``factors`` are the W_i, then the A_i, then the B_i."""
        count = len(scales)
        weights, downs, ups = (factors[part * count : (part + 1) * count] for part in range(3))
        dtype = weights[0].dtype
        rows, a = as_factor(x.reshape(-1, x.shape[-1]), dtype), torch.cat(downs).to(dtype)
        low = rows @ a.t()
        results = []
        for weight, bias, b, scale, part in zip(weights, biases, ups, scales, _cut(low, ups), strict=True):
            y = F.linear(rows, weight, bias).addmm_(part, b.to(dtype).t(), alpha=scale)
            results.append(y if as_factors else shaped(y, x.shape, x.dtype))
        ctx.save_for_backward(rows, low, a, *weights, *ups)
        ctx.scales, ctx.shape, ctx.dtype = scales, x.shape, x.dtype
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Return the gradients of x, the A_i and the B_i."""
        count = len(ctx.scales)
        rows, low, a, *factors = ctx.saved_tensors
        weights, ups = factors[:count], factors[count:]
        slopes = [as_factor(dy.reshape(-1, dy.shape[-1]), a.dtype) for dy in grads]
        found = [
            adapter_slopes(dy, rows, part, b, scale, (False, True))
            for dy, b, scale, part in zip(slopes, ups, ctx.scales, _cut(low, ups), strict=True)
        ]
        d_low = torch.cat([own for own, _, _ in found], 1)
        d_downs = torch.split(product_of_slopes(d_low.t(), rows), [b.shape[1] for b in ups])
        d_ups = [d_up for _, _, d_up in found]
        dx = None
        if ctx.needs_input_grad[0]:
            dx = slopes[0] @ weights[0]
            for dy, weight in zip(slopes[1:], weights[1:], strict=True):
                dx.addmm_(dy, weight)
            dx = shaped(dx.addmm_(d_low, a), ctx.shape, ctx.dtype)
        return dx, None, None, None, *[None] * count, *d_downs, *d_ups


def _cut(low: Tensor, ups: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the columns of each layer, [T, r_i]."""
    return torch.split(low, [b.shape[1] for b in ups], 1)
