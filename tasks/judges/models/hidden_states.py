"""Features of a reply: the base's hidden states over its tokens, given the prompt.

From the middle and the last layer, the mean over the reply's tokens and that of its last one, 4 · k numbers. k is the
width of the base; a wider base than :data:`MOST_PER_PART` is projected down by a fixed random matrix, which keeps
distances (Johnson and Lindenstrauss), so that rows stay small and a head is fitted in seconds.

The end of a reply is no token here: labelled replies and generated ones, those that the token limit cut among them,
are read alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.core.base_model import BaseModel
from tasks.core.files import digest_of
from tasks.core.runtime import RuntimeConfig
from tasks.core.versions import versions
from tasks.dpo.model.anatomy import bare_model, body_of
from tasks.dpo.model.base_loading import load_base
from tasks.judges.models.replicas import Replicas, devices_of, padded
from tasks.judges.models.row_cache import Floats, TokenText

MOST_PER_PART = 256
_TOKENS = 8192  # of a batch, where params leave it to memory


class HiddenStates:
    """Reads replies with the pinned base.

    Args:
        base: The base.
        runtime: Devices, and tokens of a batch.
    """

    def __init__(self, base: BaseModel, runtime: RuntimeConfig) -> None:
        tokens = runtime.tokens_per_micro_batch
        self._base, self._devices = base, devices_of(runtime)
        size = _TOKENS if tokens == "auto" else tokens
        self._replicas = Replicas(lambda device: load_base(base, device), _features, self._devices, size)

    @property
    def identity(self) -> str:
        """A digest of all that features depend on besides the tokens and this module's version."""
        kind = self._devices[0].type
        libraries = versions(("torch", "transformers"))
        return digest_of([self._base.digest, self._base.dtype_on(kind), kind, MOST_PER_PART, libraries])

    def read(self, texts: Sequence[TokenText]) -> list[Floats]:
        """Return the features of each text's reply, which has a token at least: float32 [4k]."""
        return self._replicas.read(texts)


def _features(model: Any, texts: list[TokenText], device: torch.device) -> Floats:
    ids, mask = padded(texts, 0, device)
    body = body_of(bare_model(model)) or model
    states = body(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
    parts = [part for layer in (states[len(states) // 2], states[-1]) for part in _means_and_lasts(layer, texts)]
    features = torch.stack(parts, dim=1)  # [B, 4, width]
    if (width := features.shape[-1]) > MOST_PER_PART:
        features = features @ torch.from_numpy(projection(width)).to(device)
    rows: Floats = features.flatten(1).cpu().numpy()
    return rows


def _means_and_lasts(layer: Tensor, texts: Sequence[TokenText]) -> tuple[Tensor, Tensor]:
    """Return the mean over each reply's tokens, and its last token's states: float32 [B, width] both."""
    replies = [states[text.start : len(text.ids)].float() for states, text in zip(layer, texts, strict=True)]
    return torch.stack([reply.mean(0) for reply in replies]), torch.stack([reply[-1] for reply in replies])


def projection(width: int) -> Floats:
    """Return the fixed matrix that takes ``width`` numbers to :data:`MOST_PER_PART`: float32."""
    drawn = np.random.default_rng(0).standard_normal((width, MOST_PER_PART), dtype=np.float32)
    scaled: Floats = drawn / np.float32(MOST_PER_PART**0.5)
    return scaled
