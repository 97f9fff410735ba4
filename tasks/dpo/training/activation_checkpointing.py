"""Training mode, and activation checkpointing: what backward recomputes to save memory.

Only the adapters' dropout is ever in training mode, the frozen base never is. There are three levels: backward
recomputes nothing, what is cheap, or every layer from its input. The middle level keeps the results of matrix
products and of attention, which cost most, and recomputes norms, rotary positions, activation functions and
element-wise products. It decides for each operation, below autograd, so it works for any model family and for
adapters written as autograd functions.
"""

from __future__ import annotations

import functools
from typing import Any

from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from tasks.dpo.capacity.memory import Recompute
from tasks.dpo.scoring.lora import keep_results


def set_modes(policy: Any, level: Recompute) -> None:
    """Put the adapters' dropout in training mode and everything else in evaluation mode.

    The frozen base must not drop anything out: the reference did not.

    Args:
        policy: A model with adapters.
        level: What backward recomputes.
    """
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
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _policy)
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
_PRODUCTS = {"aten.mm.default": 1, "aten.addmm.default": 2}  # and the position of the right factor


def _policy(_context: Any, operation: Any, *arguments: Any, **_options: Any) -> CheckpointPolicy:
    name = str(operation)
    if name in _PRODUCTS:
        inner, width = arguments[_PRODUCTS[name]].shape
        is_kept = width <= _WIDE * inner
    else:
        # torch's scaled_dot_product_… and _varlen_attn, and flash_attn's kernels: no other operation has such a name
        is_kept = "attention" in name or "attn" in name
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE
