"""A head with an adapter, in half precision: logits in float32, as those of the bare head are.

The layer by itself would round every logit to the type of its weights. That is more than the adapter's first steps
change a logit, and an untrained policy would differ from the reference, which is scored through the bare head.

Shapes: hidden states x [T, H], W [V, H], A [r, H], B [V, r], logits [T, V].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tasks.dpo.model.cpu_bfloat16 import product_for_gradients, product_in_float32
from tasks.dpo.scoring.head import tile_of
from tasks.dpo.scoring.lora import is_lean


class AdaptedHead(torch.nn.Module):
    """The logits x Wᵀ + b + s (x Aᵀ) Bᵀ in float32, for a plain LoRA layer in half precision; else the layer's result.

    Args:
        layer: The output embedding, which has the lean forward if it is a plain LoRA layer.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [T, V] of x [T, H]."""
        layer = self.layer
        is_plain = is_lean(layer) and not layer.merged and x.dtype == layer.base_layer.weight.dtype
        if not is_plain or x.dtype == torch.float32:
            result: Tensor = layer(x)
            return result

        apply: Any = _BaseLogits.apply
        logits: Tensor = apply(x, layer.base_layer.weight)
        if layer.base_layer.bias is not None:
            logits = logits + layer.base_layer.bias
        for name in [] if layer.disable_adapters else layer.active_adapters:
            if name in layer.lora_A:
                low = layer.lora_dropout[name](x.float()) @ layer.lora_A[name].weight.float().t()
                logits = logits + layer.scaling[name] * (low @ layer.lora_B[name].weight.float().t())
        return logits


class _BaseLogits(torch.autograd.Function):
    """x Wᵀ in float32; a gradient for x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        words = tile_of(len(x), len(weight), x.device)[1]  # on a CPU, W is cast tile by tile
        return torch.cat([product_in_float32(x, part.t()) for part in torch.split(weight, words)], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return product_for_gradients(grads[0].to(weight.dtype), weight).to(weight.dtype), None
