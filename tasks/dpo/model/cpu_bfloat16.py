"""Mixed precision on a CPU: linear layers multiply in bfloat16, and everything else stays in float32.

A CPU with bfloat16 products (AVX512_BF16, AMX, Arm's BF16) does about twice as many operations a second in them. Other
operations gain nothing, for their kernels widen to float32 and narrow again, and they lose digits. So the frozen
weights of linear layers are stored in bfloat16 and their inputs are rounded to it, while embeddings, norms, residual
sums, attention, the head's logits and the adapters are float32. Each product accumulates in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# oneDNN compiles machine code for each shape of a product and caches it, which takes as long as the product itself. So
# rows are padded to a multiple of this many, or to a power of two below it, and there are few shapes.
_ROWS = 64


def as_factor(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``rows`` [T, n] in the type of a product's factors, [T or more, n].

    In bfloat16 on a CPU, rows of zeros are added at the end.
    """
    if rows.dtype == dtype or rows.device.type != "cpu":
        return rows.to(dtype)
    count, width = rows.shape
    padded = -(-count // _ROWS) * _ROWS if count > _ROWS else 1 << max(0, count - 1).bit_length()
    factor = torch.empty(padded, width, dtype=dtype)
    factor[:count].copy_(rows)
    factor[count:].zero_()
    return factor


class MixedLinear(torch.nn.Linear):
    """y = x Wᵀ + b with W and b in bfloat16, for x [.., in] in float32; y [.., out] is float32 again."""

    def forward(self, x: Tensor) -> Tensor:
        """Return y in the type of x."""
        rows = x.reshape(-1, x.shape[-1])
        y = F.linear(as_factor(rows, self.weight.dtype), self.weight, self.bias)
        return y[: len(rows)].to(x.dtype).view(*x.shape[:-1], y.shape[-1])


def mix(model: Any) -> None:
    """Convert the frozen linear layers of ``model`` to bfloat16, all but the head, and everything else to float32."""
    head = model.get_output_embeddings()
    for module in model.modules():
        is_linear = type(module) is torch.nn.Linear and module is not head
        if is_linear and not any(parameter.requires_grad for parameter in module.parameters()):
            module.__class__ = MixedLinear
        dtype = torch.bfloat16 if isinstance(module, MixedLinear) else torch.float32
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)


def product_type(model: Any) -> torch.dtype:
    """Return the type of most of a model's products; in a mixed model, that of its linear layers' weights.

    Args:
        model: A causal language model, bare or with adapters.
    """
    mixed = (module for module in model.modules() if isinstance(module, MixedLinear))
    weight = next(mixed, model.get_input_embeddings()).weight
    return weight.dtype if weight.dtype.is_floating_point else torch.bfloat16


def product_in_float32(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right, accumulated and returned in float32, whatever the factors' type."""
    if left.dtype == torch.float32:
        return left @ right
    if left.device.type == "cuda":
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def product_for_gradients(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right in float32, accumulated in it; on a CPU a bfloat16 product rounds its result once."""
    return (left @ right).float() if left.device.type == "cpu" else product_in_float32(left, right)
