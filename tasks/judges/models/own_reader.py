"""Reads replies with the pinned base: their tokens behind the prompt's, and their features, recalled where known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core.base_model import BaseModel
from tasks.core.errors import ArtifactError
from tasks.core.files import digest_of
from tasks.judges.models.hostile_text import without_special_tokens
from tasks.judges.models.model_choices import ModelPlace
from tasks.judges.models.row_cache import Floats, TokenText, recall
from tasks.pairs.encoding.base_tokenizer import base_settings, generation_eos
from tasks.pairs.encoding.encoder import EncodeConfig, PairEncoder
from tasks.pairs.encoding.positions import Positions
from tasks.pairs.record.pair import Pair

if TYPE_CHECKING:
    from tasks.judges.models.hidden_states import HiddenStates

FEATURES = "hidden states/1"  # the version of what features are; another one makes every head and row anew


class OwnReader:
    """Tokens and features of replies.

    Args:
        place: Where the base is, and how this machine is used.

    Raises:
        ArtifactError: The base is missing or damaged.
    """

    def __init__(self, place: ModelPlace) -> None:
        self.base = BaseModel.open(place.base)
        self._place = place
        positions = Positions.of(base_settings(self.base, "config.json"))
        self._most = positions.most if positions else None

    @cached_property
    def _tokenizer(self) -> Any:
        return self.base.load_tokenizer()

    @cached_property
    def _states(self) -> HiddenStates:
        from tasks.judges.models.hidden_states import HiddenStates  # loads torch

        return HiddenStates(self.base, self._place.runtime)

    def text(self, prompt: Sequence[int], reply: str) -> TokenText | str:
        """Return a reply behind its prompt as tokens, or why it cannot be read.

        The reply is tokenised by itself and without blanks around it, so a labelled one and a generated one with the
        same words have the same tokens.
        """
        plain = without_special_tokens(reply.strip(), self._tokenizer)
        ids = self._tokenizer(plain, add_special_tokens=False, verbose=False)["input_ids"]
        text = TokenText((*prompt, *ids), len(prompt))
        if not prompt:
            return "its prompt has no tokens"
        if text.start == len(text.ids):
            return "it has no tokens"
        if self._most is not None and len(text.ids) > self._most:
            return f"{len(text.ids)} tokens with its prompt, and the base has {self._most} positions"
        return text

    def features(self, texts: Sequence[TokenText], what: str) -> Floats:
        """Return the features of texts: float32 [n, d]; ``what`` names them in the progress line.

        Raises:
            ArtifactError: The base does not load, or gives no finite numbers.
        """
        if not texts:
            return np.zeros((0, 0), np.float32)
        identity = digest_of([FEATURES, self._states.identity])
        keys = [text.key(identity) for text in texts]
        rows = recall(
            self._place.rows("features"), keys, lambda chosen: self._states.read([texts[i] for i in chosen]), what
        )
        features = np.stack(rows)
        if broken := int((~np.isfinite(features)).any(axis=1).sum()):
            what = f"the base model's hidden states are not finite for {broken} of {len(texts)} replies"
            raise ArtifactError(what, "set `base.compute_dtype: float32`, or check the base's weights")
        return features


def prompt_encoder(place: ModelPlace, config: EncodeConfig) -> Callable[[Pair], tuple[int, ...]]:
    """Return a function that gives a pair's prompt as `encode` tokenises it; nothing for a pair that it drops.

    Raises:
        ArtifactError: The base is missing or damaged.
        ConfigError: The chat template cannot be used.
    """
    base = BaseModel.open(place.base)
    encoder = PairEncoder(base.load_tokenizer(), config, generation_eos(base))
    return lambda pair: tuple(encoder.encode([pair])[0].prompt.tolist())
