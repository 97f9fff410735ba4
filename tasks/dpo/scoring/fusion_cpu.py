"""RMS norms, gated feed-forward parts and projections of one input in few passes over memory, on a CPU.

transformers writes them operation by operation, and autograd passes over memory once for each, forward and backward.
Here backward is written out, and the feed-forward part saves only the results of its gate and up projection: the down
projection's input is computed again. With r = 1 / sqrt(mean x² + ε), g = dy ∘ w, and H the size of x:

    y = x r w        dx = r (g - x r² Σ(g x) / H)

A module is recognised by its results on random numbers, not by its name, so a norm of another kind stays as it is.

Shapes: x, y [.., H], w [H]; gate, up [.., I].
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.dpo.model.cpu_bfloat16 import MixedLinear
from tasks.dpo.model.evaluation import evaluation_mode
from tasks.dpo.scoring.lora import gated_down
from tasks.dpo.scoring.lora_joint import Sibling, Siblings, projections, together


def fuse(model: torch.nn.Module) -> None:
    """Give every module of a known kind the fused forward, where it is on a CPU and computes in float32."""
    for module in model.modules():
        weight = next(module.parameters(), None)
        if weight is None or weight.requires_grad or not _is_plain(module):
            continue
        plain: Any = type(module)
        if issubclass(plain, (_Norm, _Gated)):
            continue

        if (offset := _offset_of(module)) is not None:
            module.__class__ = _fused(plain, _Norm, offset)
        elif _is_gated(module):
            module.__class__ = _fused(plain, _Gated)
        else:
            layers = projections(module)
            if not any(isinstance(layer, Sibling) for layer in layers):
                siblings = Siblings(layers)
                for layer in layers:
                    kind: Any = type(layer)
                    layer.siblings, layer.__class__ = siblings, _fused(kind, Sibling)


def keeps_gates(model: torch.nn.Module) -> bool:
    """Tell whether the feed-forward parts save their gate and up results, and nothing else of that width."""
    return any(isinstance(module, _Gated) for module in model.modules())


def unfuse(model: torch.nn.Module) -> None:
    """Restore every module's forward."""
    for module in model.modules():
        if isinstance(module, (_Norm, _Gated, Sibling)):
            module.__class__ = type(module).__bases__[1]
            vars(module).pop("siblings", None)


@functools.cache
def _fused(plain: Any, mixin: Any, offset: float = 0.0) -> Any:
    return type(f"Fused{plain.__name__}", (mixin, plain), {"weight_offset": offset})


class _Norm:
    weight_offset: float

    def forward(self: Any, x: Tensor) -> Tensor:
        scale = self.weight + self.weight_offset if self.weight_offset else self.weight
        apply: Any = RmsNorm.apply
        y: Tensor = apply(x, scale, _epsilon(self))
        return y


class _Gated:
    def forward(self: Any, x: Tensor) -> Tensor:
        projected = together((self.gate_proj, self.up_proj), x, as_factors=True)
        if projected is None:
            y: Tensor = super().forward(x)  # type: ignore[misc]
            return y
        gate, up = projected
        return gated_down(gate, up, self.down_proj, x)


class RmsNorm(torch.autograd.Function):
    """y = x r w; a gradient for x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, epsilon: float) -> Tensor:
        """Return y."""
        r = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, scale, r)
        y: Tensor = (x * r).mul_(scale)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of x."""
        x, scale, r = ctx.saved_tensors
        g = grads[0] * scale
        share = torch.linalg.vecdot(g, x).unsqueeze(-1).mul_(r.square()).div_(-x.shape[-1])
        dx: Tensor = g.addcmul_(x, share).mul_(r)
        return dx, None, None


def _is_plain(module: torch.nn.Module) -> bool:
    """Tell whether a module's weights are unsharded and on a CPU, and its activations in float32."""
    weights = ((part, weight) for part in module.modules() for weight in part.parameters(recurse=False))
    return all(
        weight.device.type == "cpu"
        and (weight.dtype == torch.float32 or isinstance(part, MixedLinear))
        and not (hasattr(weight, "to_local") or hasattr(weight, "ds_tensor"))
        for part, weight in weights
    )


def _epsilon(module: Any) -> float:
    return float(getattr(module, "variance_epsilon", getattr(module, "eps", 0.0)))


def _offset_of(module: Any) -> float | None:
    """Return what an RMS norm adds to its weight (Gemma: 1), None for any other module."""
    weight = getattr(module, "weight", None)
    if not type(module).__name__.endswith("RMSNorm") or weight is None or weight.ndim != 1:
        return None

    x = _random_input(len(weight))
    with torch.inference_mode():
        y = module(x)
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _epsilon(module))
        return next((offset for offset in (0.0, 1.0) if _is_close(y, normed * (weight + offset))), None)


def _is_gated(module: Any) -> bool:
    """Tell whether a module computes down(silu(gate(x)) ∘ up(x))."""
    parts: list[Any] = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if not all(isinstance(part, torch.nn.Module) and hasattr(part, "in_features") for part in parts):
        return False
    gate, up, down = parts
    with torch.inference_mode(), evaluation_mode(module):
        x = _random_input(int(gate.in_features))
        return _is_close(module(x), down(F.silu(gate(x)) * up(x)))


def _random_input(size: int) -> Tensor:
    return torch.randn(2, 3, size, generator=torch.Generator().manual_seed(0))


def _is_close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, 1e-4, 1e-6)
