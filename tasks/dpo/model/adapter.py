"""The adapter: its shape, fresh LoRA layers on a base, and the parameters that train."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import torch
from peft import LoraConfig, get_peft_model

from tasks.core.errors import ConfigError
from tasks.core.section import Section, at_least, between


@dataclasses.dataclass(frozen=True)
class LoraSettings(Section, path="train.lora"):
    """The shape of the adapter (arXiv:2106.09685).

    Attributes:
        rank: r, the inner dimension of each update B·A.
        alpha: The update is scaled by alpha / rank.
        dropout: Share of the adapter's inputs zeroed in training, in [0, 1).
        target_modules: `all-linear`, or the names of the linear layers to adapt.
    """

    rank: Annotated[int, at_least(1, "for example 16")] = 16
    alpha: Annotated[int, at_least(1, "for example twice the rank")] = 32
    dropout: Annotated[float, between(0, 1, "[)")] = 0.0
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"


def attach_lora(model: Any, settings: LoraSettings, seed: int) -> Any:
    """Freeze ``model`` and put fresh float32 adapters on it; the same seed gives the same adapters.

    Raises:
        ConfigError: A name of ``settings.target_modules`` is no layer of the model.
    """
    names = settings.target_modules
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=names if isinstance(names, str) else list(names),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            policy = get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(
                f"`train.lora.target_modules` does not fit the model ({error})", "name its layers"
            ) from None

    for name in [] if isinstance(names, str) else names:
        if not any(f".{layer}".endswith(f".{name}") for layer in policy.targeted_module_names):
            raise ConfigError(
                f"`train.lora.target_modules` names `{name}`, which is no layer of the model", "correct the name"
            )

    for parameter in adapter_parameters(policy):
        parameter.data = parameter.data.float()
    return policy


def adapter_parameters(policy: Any) -> list[torch.nn.Parameter]:
    """Return the trainable parameters, in the model's own order: the order of optimizer and checkpoints."""
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]
