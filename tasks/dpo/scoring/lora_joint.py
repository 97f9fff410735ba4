"""Lean LoRA layers of one input, as one operation on a CPU: queries, keys and values; gate and up projection.

Separately, each layer reads x again for its small product x Aᵀ, and gives a gradient of x's size that autograd then
sums. Here A is the layers' A_i stacked, one below the other, and l = [s_1 dy_1 B_1 | s_2 dy_2 B_2 | ..]:

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

from tasks.dpo.model.cpu_bfloat16 import as_factor, product_for_gradients
from tasks.dpo.scoring.lora import is_lean, plain_operands
from tasks.dpo.scoring.lora_operations import adapter_gradients, shaped

_OF_ONE_INPUT = ("q_proj", "k_proj", "v_proj")  # in the order in which attention calls them


def together(layers: Sequence[Any], x: Tensor, as_factors: bool = False) -> list[Tensor] | None:
    """Return every layer's result for ``x`` [.., in], computed as one operation.

    None where that cannot be: one of them is no plain lean layer, or its base's result is saved.

    Args:
        layers: Layers of the same input.
        x: The input.
        as_factors: Return rows [T or more, out] in the type of products, as factors of the next one; else [.., out].
    """
    operands = [each for layer in layers if (each := plain_operands(layer)) is not None and each[-1]]
    if len(operands) < len(layers):
        return None
    weights, biases, downs, ups, scales, _ = zip(*operands, strict=True)
    apply: Any = JointLoraLinear.apply
    return list(apply(x, as_factors, scales, biases, *weights, *downs, *ups))


class Siblings:
    """Attention's projections of one input: the first one called computes all results, the others fetch theirs.

    Args:
        layers: The projections, in the order in which attention calls them with the same tensor.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = layers
        self._input: Tensor | None = None
        self._results: dict[int, Tensor] = {}

    def result(self, layer: Any, x: Tensor) -> Tensor | None:
        """Return the result of ``layer`` for ``x``; None where the layer has to compute it by itself."""
        if layer is self._layers[0]:
            results = together(self._layers, x) or ()
            self._input, self._results = x, dict(zip(map(id, self._layers), results, strict=False))
        result = self._results.pop(id(layer), None) if x is self._input else None
        if not self._results:
            self._input = None
        return result


class Sibling:
    """A projection that asks its siblings first, mixed into a class of lean layers."""

    siblings: Siblings

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's result for ``x``."""
        is_alone = bool(args or kwargs) or torch.compiler.is_compiling()  # one graph serves all layers
        y: Tensor | None = None if is_alone else self.siblings.result(self, x)
        if y is None:
            y = super().forward(x, *args, **kwargs)  # type: ignore[misc]
        return y


def projections(attention: Any) -> list[Any]:
    """Return a module's query, key and value projections if all of them are lean layers, else []."""
    layers = [getattr(attention, name, None) for name in _OF_ONE_INPUT]
    return layers if all(is_lean(layer) for layer in layers) else []


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
        dys = [as_factor(dy.reshape(-1, dy.shape[-1]), a.dtype) for dy in grads]

        parts = [
            adapter_gradients(dy, rows, part, b, scale, (False, True))
            for dy, b, scale, part in zip(dys, ups, ctx.scales, _cut(low, ups), strict=True)
        ]
        d_low = torch.cat([part for part, _, _ in parts], 1)
        d_downs = torch.split(product_for_gradients(d_low.t(), rows), [b.shape[1] for b in ups])
        d_ups = [d_up for _, _, d_up in parts]

        dx = None
        if ctx.needs_input_grad[0]:
            dx = dys[0] @ weights[0]
            for dy, weight in zip(dys[1:], weights[1:], strict=True):
                dx.addmm_(dy, weight)
            dx = shaped(dx.addmm_(d_low, a), ctx.shape, ctx.dtype)
        return dx, None, None, None, *[None] * count, *d_downs, *d_ups


def _cut(low: Tensor, ups: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return each layer's columns of x Aᵀ, [T, r_i]."""
    return torch.split(low, [b.shape[1] for b in ups], 1)
