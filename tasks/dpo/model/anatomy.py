"""The parts of a causal language model: the model without its adapters, its body below the head, its decoder layers."""

from __future__ import annotations

from typing import Any

import torch

from tasks.core.errors import ConfigError


def decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the decoder layers in their order, of a bare model or of one with adapters.

    They are the members of the ``ModuleList`` that has the most parameters.

    Raises:
        ConfigError: The model has no such list.
    """
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module)]
    if not lists:
        what = f"a {type(model).__name__} has no list of layers"
        raise ConfigError(what, "set `runtime.sharding: none` and `runtime.compile: off`")
    sizes = [sum(parameter.numel() for parameter in modules.parameters()) for modules in lists]
    return list(lists[sizes.index(max(sizes))])


def bare_model(model: Any) -> Any:
    """Return the model without PEFT's wrapper; one without adapters is returned as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def body_of(model: Any) -> Any | None:
    """Return the part of a bare causal language model that gives the hidden states, None where it is not found.

    It usually stands under the class's ``base_model_prefix``. The text models of Llama 4 and Mllama name there an
    attribute that only the multimodal model around them has.
    """
    return getattr(model, model.base_model_prefix, None) or getattr(model, "model", None)
