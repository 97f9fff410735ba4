"""Training and evaluation modes: only the adapters' dropout ever trains, the frozen base never does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


def set_modes(policy: Any, gradient_checkpointing: bool) -> None:
    """Put the adapters' dropout in training mode and everything else in evaluation mode.

    The frozen base must not drop anything out: the reference did not.
    """
    policy.eval()
    for name, module in policy.named_modules():
        if "lora_dropout" in name:
            module.train()
    if gradient_checkpointing:
        _recompute_activations(policy)


def _recompute_activations(policy: Any) -> None:
    """Switch gradient checkpointing on; it works only in layers that think they train.

    Some families (OPT) drop out in the layer's own forward, which training mode would wake: set to 0.
    """
    policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy.enable_input_require_grads()
    for module in policy.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True
            for name in [name for name, value in vars(module).items() if "drop" in name and isinstance(value, float)]:
                setattr(module, name, 0.0)


@contextlib.contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Put every module in evaluation mode for a block, then each back in the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
