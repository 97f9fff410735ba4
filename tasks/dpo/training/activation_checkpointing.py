"""Training mode and activation checkpointing: what backward computes again to save memory.

Only the adapters' dropout ever trains, the frozen base never does. Three levels: nothing is computed again, what is
cheap, or every layer from its input. The middle level keeps the results of matrix products and of attention, which
are most of the work, and computes norms, rotations, activation functions and products of elements again. What is
kept is decided operation by operation, below autograd, so it holds for any family and for adapters written as
autograd functions.
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
        gradient_checkpointing: What backward computes again, as :class:`~tasks.dpo.capacity.memory.Recompute` names it;
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
    """Switch gradient checkpointing on; it works only in layers that think they train.

    Some families (OPT) drop out in the layer's own forward, which training mode would wake: set to 0.
    """
    options: dict[str, Any] = {"use_reentrant": False}
    if level is Recompute.SELECTIVE:
        options["context_fn"] = selective_contexts
    policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    # transformers lets gradients flow on into the embeddings; checkpoints need that only when they are re-entrant
    policy.get_base_model().disable_input_require_grads()
    for module in policy.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True
            for name in [name for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]:
                setattr(module, name, 0.0)


# How far the inner dimension of a product may fall below its width before its result costs more to keep than to
# compute again: what an adapter adds to a layer is such a product.
_WIDE = 8


_PRODUCTS = {"aten.mm.default": 0, "aten.addmm.default": 1}  # and the place of the left factor


def selective_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what torch's checkpoint runs the forward in, and the second forward: the level between none and full."""
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
    """Return the place of a product's left factor, -1 for attention, None for what is computed again."""
    name = str(operation)
    if name in _PRODUCTS:
        return _PRODUCTS[name]
    # scaled_dot_product_… of torch, _varlen_attn, flash_attn's own: all kernels, and nothing else, are called so
    return -1 if "attention" in name or "attn" in name else None
