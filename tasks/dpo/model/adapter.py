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
    policy = wrap(model, config, "`train.lora.target_modules` does not fit the model", "name its layers", seed)

    for name in [] if isinstance(names, str) else names:
        if not any(is_named(layer, name) for layer in policy.targeted_module_names):
            what = f"`train.lora.target_modules` names `{name}`, which is no layer of the model"
            raise ConfigError(what, "correct the name")

    train_in_float32(policy)
    return policy


def wrap(model: Any, config: LoraConfig, fault: str, advice: str, seed: int = 0) -> Any:
    """Return ``model`` with new adapters; the generator is as it was before.

    Raises:
        ConfigError: The config does not fit the model: ``fault`` and what PEFT says, then ``advice``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(f"{fault} ({error})", advice) from None


def is_named(layer: str, name: str) -> bool:
    """Tell whether ``name`` is the last part, or parts, of a layer's name."""
    return f".{layer}".endswith(f".{name}")


def train_in_float32(policy: Any) -> None:
    """Convert the trainable parameters to float32."""
    for parameter in adapter_parameters(policy):
        parameter.data = parameter.data.float()


def adapter_parameters(policy: Any) -> list[torch.nn.Parameter]:
    """Return the trainable parameters, in the model's own order: the order of optimizer and checkpoints."""
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]
