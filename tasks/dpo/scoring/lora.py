"""Lean LoRA layers: y = x Wᵀ + b + s (x Aᵀ) Bᵀ with W frozen, in as few passes as it takes.

PEFT stays the format and the loader. PEFT's forward casts activations to the adapters' float32 and back, and adds the
update in separate passes; autograd keeps copies of both. Here the adapters' float32 weights, which are small, are cast
to the activations' type, the update is added in place, and backward is written out:

    dx = dy W + s (dy B) A      dA = s (dy B)ᵀ x      dB = s dyᵀ (x Aᵀ)

The down projection of a gated feed-forward part saves gate and up, and computes its x = silu(gate) ∘ up from them again
in backward.

A quantised base computes x Wᵀ + b and its share of dx itself; the update is added to its result.

Shapes: x [T, in], W [out, in], A [r, in], B [out, r], y [T, out].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners import lora
from torch import Tensor

from tasks.dpo.model.cpu_bfloat16 import MixedLinear, as_factor, product_for_gradients
from tasks.dpo.scoring.dropout import TokenDropout, dropped

_outside_graphs: Any = torch.compiler.disable  # a batch's token hashes are no part of a compiled layer
_QUANTISED = "peft.tuners.lora.bnb"  # only imported by PEFT where bitsandbytes is installed


def make_lean(policy: torch.nn.Module, dropout: TokenDropout | None = None) -> None:
    """Give every plain LoRA layer of ``policy`` the lean forward.

    PEFT's own forward stays for layers whose base is neither an ``nn.Linear`` nor one of bitsandbytes, and for layers
    with a variant (DoRA) or a LoRA bias. Without ``dropout``, it also runs wherever an adapter's dropout is on.

    Args:
        policy: A model with adapters.
        dropout: Says what is dropped of each token.
    """
    for number, module in enumerate(policy.modules()):
        if isinstance(module, lora.LoraLayer) and _is_plain(module):
            module.token_dropout = None if dropout is None else (dropout, number)
            module.__class__ = _lean(type(module))  # type: ignore[arg-type]


def make_plain(policy: torch.nn.Module) -> None:
    """Restore PEFT's forward in every layer."""
    for module in policy.modules():
        if isinstance(module, _Lean):
            module.__class__ = type(module).__bases__[1]
            del module.token_dropout


def drawing_by_batch(policy: Any) -> int:
    """Count the layers whose dropout is drawn anew for every micro-batch, whatever its tokens.

    These are the layers with PEFT's forward, and the head, whose input is the scored tokens alone. An embedding drops
    nothing.
    """
    head = policy.get_output_embeddings()
    layers = [module for module in policy.modules() if isinstance(module, lora.LoraLayer)]
    by_batch = [layer for layer in layers if not isinstance(layer, lora.Embedding | _Lean) or layer is head]
    return sum(any(getattr(dropout, "p", 0.0) for dropout in layer.lora_dropout.values()) for layer in by_batch)


def keep_results(policy: torch.nn.Module, is_kept: bool) -> None:
    """Set whether the base layers' results are saved elsewhere, so that no update may be added to them in place."""
    for module in policy.modules():
        if isinstance(module, lora.LoraLayer):
            module.results_are_kept = is_kept


def _is_plain(module: Any) -> bool:
    is_linear = type(module) is lora.Linear and type(module.base_layer) in (torch.nn.Linear, MixedLinear)
    return (
        (is_linear or type(module).__module__ == _QUANTISED)
        and not module.base_layer.weight.requires_grad
        and not getattr(module, "fan_in_fan_out", False)
        and not module.lora_variant
        and not any(module.lora_bias.values())
    )


class _Lean:
    """The lean forward, mixed into a class of PEFT's, so that torch.compile makes one graph for all layers."""

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = None if args or kwargs else _only_adapter(self)
        share = 0.0 if name is None else _share_dropped(self, name)
        out: Tensor
        if name is not None and not share:
            out = _added(self, name, x)
        elif name is not None and (left := _dropped(self, x, share)) is not None:
            a, b = self.lora_A[name].weight, self.lora_B[name].weight
            out = _apply(LoraUpdate)(self.base_layer(x), left, a, b, self.scaling[name])
        elif (self.disable_adapters or not _active(self)) and not self.merged:
            out = self.base_layer(x)
        else:
            out = super().forward(x, *args, **kwargs)  # type: ignore[misc]
        return out


def _active(module: Any) -> list[str]:
    return [name for name in module.active_adapters if name in module.lora_A]


def _only_adapter(module: Any) -> str | None:
    """Return the name of the one adapter whose update is added, None where there is not exactly one."""
    names = [] if module.disable_adapters or module.merged else _active(module)
    return names[0] if len(names) == 1 else None


def _share_dropped(module: Any, name: str) -> float:
    """Return the share of an adapter's input that is dropped: 0 in evaluation mode."""
    dropout = module.lora_dropout[name]
    return float(getattr(dropout, "p", 0.0)) if dropout.training else 0.0


def _dropped(module: Any, x: Tensor, share: float) -> Tensor | None:
    """Return a layer's input after dropout, None where its tokens have no hashes."""
    left: Tensor | None = _outside_graphs(_dropped_by_token)(module, x, share)
    return left


def _dropped_by_token(module: Any, x: Tensor, share: float) -> Tensor | None:
    if module.token_dropout is None:
        return None
    source, number = module.token_dropout
    hash_T = source.hashes(x.numel() // x.shape[-1])
    return None if hash_T is None else dropped(x, hash_T, number, share)


def _added(module: Any, name: str, x: Tensor) -> Any:
    """Return the base layer's result plus the update of the adapter ``name``."""
    if isinstance(module, lora.Linear):
        return _apply(LoraLinear)(x, *_operands(module, name))
    a, b = module.lora_A[name].weight, module.lora_B[name].weight
    return _apply(LoraUpdate)(module.base_layer(x), x, a, b, module.scaling[name])


def _operands(module: Any, name: str) -> tuple[Any, ...]:
    """Return weight, bias, A, B, s, and whether the update may be added in place."""
    base, a, b = module.base_layer, module.lora_A[name].weight, module.lora_B[name].weight
    return base.weight, base.bias, a, b, module.scaling[name], not getattr(module, "results_are_kept", False)


def gated_down(gate: Tensor, up: Tensor, down: torch.nn.Module, like: Tensor) -> Tensor:
    """Return down(silu(gate) ∘ up), in the type of ``like``; a lean ``down`` saves gate and up instead of the product.

    Args:
        gate: [T or more, I], in the type of products.
        up: Likewise.
        down: The down projection, which takes [.., I].
        like: [.., any], with T rows.
    """
    operands = plain_operands(down)
    if operands is not None:
        y: Tensor = _apply(GatedLoraLinear)(gate, up, like.shape[:-1], like.dtype, *operands)
    else:
        y = down(shaped(F.silu(gate.float()) * up.float(), like.shape, like.dtype))
    return y


def is_lean(module: Any) -> bool:
    """Tell whether a module is a LoRA layer over an ``nn.Linear`` that has the lean forward."""
    return isinstance(module, _Lean) and isinstance(module, lora.Linear)


def plain_operands(module: Any) -> tuple[Any, ...] | None:
    """Return weight, bias, A, B, s, and whether the update may be added in place.

    None where the module is no lean layer over an ``nn.Linear``, where none or several adapters are active, or where
    some of its input is dropped.
    """
    name = _only_adapter(module) if is_lean(module) else None
    return None if name is None or _share_dropped(module, name) else _operands(module, name)


@functools.cache
def _lean(plain: type) -> type:
    return type(f"Lean{plain.__name__}", (_Lean, plain), {})


def _apply(function: type[torch.autograd.Function]) -> Any:
    return function.apply


class LoraLinear(torch.autograd.Function):
    """y = x Wᵀ + b + s (x Aᵀ) Bᵀ; gradients for x, A and B."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
        in_place: bool = True,
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
