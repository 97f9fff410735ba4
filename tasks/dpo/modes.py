"""Training and evaluation modes: only the adapters' dropout ever trains, the frozen base never does."""

from __future__ import annotations

from typing import Any

from tasks.dpo.lora import keep_results
from tasks.dpo.memory import Recompute
from tasks.dpo.recompute import selective_contexts


def set_modes(policy: Any, gradient_checkpointing: bool | str) -> None:
    """Put the adapters' dropout in training mode and everything else in evaluation mode.

    The frozen base must not drop anything out: the reference did not.

    Args:
        policy: A model with adapters.
        gradient_checkpointing: What backward computes again, as :class:`~tasks.dpo.memory.Recompute` names it;
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
