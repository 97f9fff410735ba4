"""The last decoder layer works for the tokens that are scored: of all others only its keys and values are wanted.

What stands in that layer behind the keys and values treats every token by itself, so it is given the scored ones
alone: the queries' projection, attention's queries, the projection of its result, and the feed-forward part. All
other places get zeros, which nobody reads. In a model of L layers this spares about 3 / (4 L) of the work on prompts.

Shapes: hidden states [1, T, H]; Q of the T tokens are scored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tasks.core.errors import ConfigError
from tasks.dpo.model.anatomy import decoder_layers
from tasks.dpo.scoring.layout import Segments

# What transformers calls the projections of attention's queries and of its result.
_PROJECTIONS = ("q_proj", "o_proj", "out_proj", "dense")
_MARK = "works_for_scored_tokens"


class LastLayer:
    """Hooks on the last layer's modules, until :meth:`close`.

    Args:
        model: A causal language model, bare or with adapters.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._scored_Q: Tensor | None = None
        self._width = 0
        self._attention: list[Any] = []
        self._handles: list[Any] = []
        try:
            layer = decoder_layers(model)[-1]
        except ConfigError:
            return
        for module in _modules_by_token(layer):
            self._handles.append(module.register_forward_pre_hook(self._narrow))
            self._handles.append(module.register_forward_hook(self._widen))
        self._attention = [module for module in layer.modules() if hasattr(module, "layer_idx")]
        self.follow(None)

    def follow(self, segments: Segments | None) -> None:
        """Work for this batch from now on, backward's second forward of it included; None switches off."""
        self._scored_Q = None if segments is None else segments.scored_Q
        self._width = 0 if segments is None else len(segments.position_T)
        for module in self._attention:
            setattr(module, _MARK, segments is not None)

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        for module in self._attention:
            module.__dict__.pop(_MARK, None)
        self._handles, self._attention = [], []

    def _narrow(self, _module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._scored_Q is None:
            return None
        (hidden,) = inputs
        if hidden.shape[-2] != self._width:
            raise ValueError(f"a layer of {self._width} tokens gives a part of it {tuple(hidden.shape)}")
        return (hidden.index_select(-2, self._scored_Q),)

    def _widen(self, module: torch.nn.Module, _inputs: tuple[Any, ...], result: Any) -> Tensor | None:
        if self._scored_Q is None:
            return None
        if not isinstance(result, Tensor):
            raise TypeError(f"a {type(module).__name__} gives a {type(result).__name__}")
        return widened(result, -2, self._scored_Q, self._width)


def works_for_scored(layer: torch.nn.Module) -> bool:
    """Tell whether a layer has these hooks."""
    return any(_MARK in vars(module) for module in layer.modules())


def is_for_scored(module: torch.nn.Module) -> bool:
    """Tell whether of an attention module's queries those of scored tokens are enough."""
    return bool(getattr(module, _MARK, False))


def widened(narrow: Tensor, dim: int, places: Tensor, width: int) -> Tensor:
    """Return ``narrow`` with ``width`` places in dimension ``dim``: its own at ``places``, zeros elsewhere."""
    shape = list(narrow.shape)
    shape[dim] = width
    return narrow.new_zeros(shape).index_copy(dim, places, narrow)


def _modules_by_token(layer: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the layer's modules with weights that treat each token by itself, the keys' and values' left out."""
    found = []
    for name, child in layer.named_children():
        if "attn" in name or "attention" in name.split("_"):
            found += [part for own, part in child.named_children() if own in _PROJECTIONS]
        elif any(parameter.ndim > 1 for parameter in child.parameters()):
            found.append(child)
    return found
