"""Where a model keeps its decoder layers: what is sharded or compiled is one of these at a time."""

from __future__ import annotations

from typing import Any

import torch

from tasks.core.errors import ConfigError


def decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the decoder layers in their order, of a bare model or of one with adapters.

    They are the members of the list of modules that holds the most parameters.

    Raises:
        ConfigError: The model has no such list.
    """
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module)]
    if not lists:
        raise ConfigError(
            f"a {type(model).__name__} has no list of layers", "set `runtime.sharding: none` and `runtime.compile: off`"
        )
    sizes = [sum(parameter.numel() for parameter in found.parameters()) for found in lists]
    return list(lists[sizes.index(max(sizes))])


def bare_model(model: Any) -> Any:
    """Return the model without PEFT's wrapper; one without adapters is returned as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def body_of(model: Any) -> Any | None:
    """Return what gives a bare causal language model's hidden states, None where nothing is found.

    It is under the name that the class gives; the text models of Llama 4 and Mllama give one that only the model
    around them has.
    """
    return getattr(model, model.base_model_prefix, None) or getattr(model, "model", None)
