"""Lean LoRA layers: y = x Wᵀ + b + s (x Aᵀ) Bᵀ with W frozen, in few passes over memory.

PEFT stays the format and the loader. PEFT's forward casts activations to the adapters' float32 and back, and adds the
update in separate passes; autograd saves copies of both. A lean layer replaces that forward by one operation
(:mod:`tasks.dpo.scoring.lora_operations`). A quantised base computes x Wᵀ + b itself, and the update is added to it.

Shapes: x [.., in], W [out, in], A [r, in], B [out, r], y [.., out].
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners import lora
from torch import Tensor

from tasks.dpo.model.cpu_bfloat16 import MixedLinear
from tasks.dpo.scoring.dropout import TokenDropout, dropped
from tasks.dpo.scoring.lora_operations import GatedLoraLinear, LoraLinear, LoraUpdate, shaped

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
        left = x if not share else _dropped(self, x, share)
        out: Tensor
        if name is not None and not share and isinstance(self, lora.Linear):
            out = _apply(LoraLinear)(x, *_operands(self, name))
        elif name is not None and left is not None:
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


def _dropped_by_token(module: Any, x: Tensor, share: float) -> Tensor | None:
    """Return a layer's input after dropout, None where its tokens have no hashes."""
    if module.token_dropout is None:
        return None
    source, number = module.token_dropout
    hash_T = source.hashes(x.numel() // x.shape[-1])
    return None if hash_T is None else dropped(x, hash_T, number, share)


_dropped = _outside_graphs(_dropped_by_token)


def _operands(module: Any, name: str) -> tuple[Any, ...]:
    """Return weight, bias, A, B, s, and whether the update may be added in place."""
    base, a, b = module.base_layer, module.lora_A[name].weight, module.lora_B[name].weight
    return base.weight, base.bias, a, b, module.scaling[name], not getattr(module, "results_are_kept", False)


def gated_down(gate: Tensor, up: Tensor, down: torch.nn.Module, like: Tensor) -> Tensor:
    """Return down(silu(gate) ∘ up), in the type of ``like``; a lean ``down`` saves gate and up instead of the product.

    Args:
        gate: The gate projection's result, [T or more, I], in the type of products.
        up: The up projection's result, likewise.
        down: The down projection, which takes [.., I].
        like: The part's input, [.., H] with T rows: the result has its type and the same leading dimensions.
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
