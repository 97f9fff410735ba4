"""Training mode, and activation checkpointing: what backward recomputes to save memory.

Only the adapters' dropout is ever in training mode, the frozen base never is. There are three levels: backward
recomputes nothing, what is cheap, or every layer from its input. The middle level keeps the results of matrix
products and of attention, which cost most, and recomputes norms, rotary positions, activation functions and
element-wise products. It decides for each operation, below autograd, so it works for any model family and for
adapters written as autograd functions.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import Any

from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from tasks.dpo.capacity.memory import Recompute
from tasks.dpo.scoring.lora import keep_results


def set_modes(policy: Any, gradient_checkpointing: bool | str) -> None:
    """Put the adapters' dropout in training mode and everything else in evaluation mode.

    The frozen base must not drop anything out: the reference did not.

    Args:
        policy: A model with adapters.
        gradient_checkpointing: What backward recomputes, a value of :class:`~tasks.dpo.capacity.memory.Recompute`;
            True is `full`, False is `none`.
    """
    if isinstance(gradient_checkpointing, bool):
        gradient_checkpointing = Recompute.FULL if gradient_checkpointing else Recompute.NONE
    level = Recompute(gradient_checkpointing)

    policy.eval()
    for name, module in policy.named_modules():
        if "lora_dropout" in name:
            module.train()

    keep_results(policy, level is Recompute.SELECTIVE)
    if level is not Recompute.NONE:
        _recompute_activations(policy, level)


def _recompute_activations(policy: Any, level: Recompute) -> None:
    """Switch activation checkpointing on; transformers does it only in layers in training mode.

    Some families (OPT) apply dropout in the layer's forward, which training mode would switch on: its rate becomes 0.
    """
    options: dict[str, Any] = {"use_reentrant": False}
    if level is Recompute.SELECTIVE:
        options["context_fn"] = selective_contexts
    policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)

    # transformers lets gradients flow into the embeddings; only re-entrant checkpoints need that
    policy.get_base_model().disable_input_require_grads()
    for module in policy.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True
            for name in [name for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]:
                setattr(module, name, 0.0)


# A product whose result is this many times wider than its inner dimension is cheaper to recompute than to keep: what
# an adapter adds to a layer is such a product.
_WIDE = 8
_PRODUCTS = {"aten.mm.default": 0, "aten.addmm.default": 1}  # and the position of the left factor


def selective_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of torch's checkpoint for the forward and the recomputation: the level `selective`."""
    make: Any = create_selective_checkpoint_contexts
    contexts: tuple[AbstractContextManager[None], AbstractContextManager[None]] = make(_policy)
    return contexts


def _policy(_context: Any, operation: Any, *arguments: Any, **_options: Any) -> CheckpointPolicy:
    kind = _kind(operation)
    if kind is None:
        return CheckpointPolicy.PREFER_RECOMPUTE
    if kind >= 0:
        inner, width = arguments[kind + 1].shape
        if width > _WIDE * inner:
            return CheckpointPolicy.PREFER_RECOMPUTE
    return CheckpointPolicy.MUST_SAVE


@functools.cache
def _kind(operation: Any) -> int | None:
    """Return the position of a product's left factor, -1 for attention, None for what is recomputed."""
    name = str(operation)
    if name in _PRODUCTS:
        return _PRODUCTS[name]
    # torch's scaled_dot_product_… and _varlen_attn, and flash_attn's kernels: no other operation has such a name
    return -1 if "attention" in name or "attn" in name else None
