"""How many positions the base model has, and whether a longer row fails or only leaves what the model was made for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tasks.core.errors import DataError
from tasks.telemetry.log import get_logger

_log = get_logger(__name__)

# an embedding per position: a longer row has no embedding and fails; in other families positions are computed
LEARNED = {"biogpt", "gpt2", "gpt_bigcode", "gpt_neo", "openai-gpt", "opt"}
_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")


@dataclasses.dataclass(frozen=True)
class Positions:
    """What a base's config.json says of its positions.

    Attributes:
        most: How many tokens a row may have.
        is_learned: A longer row fails.
    """

    most: int
    is_learned: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Positions | None:
        """Read a config, or the text part of one; None where it says nothing."""
        text = config.get("text_config")
        for part in (text if isinstance(text, dict) else {}, config):
            for key in _KEYS:
                if isinstance(most := part.get(key), int) and most > 0:
                    return cls(most, part.get("model_type") in LEARNED)
        return None

    def check(self, rows: int, longest: int) -> None:
        """Refuse or warn of ``rows`` rows that are longer; ``longest`` has the most tokens.

        Raises:
            DataError: The positions are learned.
        """
        if not rows:
            return
        what = (
            f"{rows} rows are longer than the base model's {self.most} positions (config.json); "
            f"the longest has {longest} tokens"
        )
        advice = f"lower `encode.max_prompt_tokens` and `encode.max_completion_tokens` to at most {self.most} together"
        if self.is_learned:
            raise DataError(what, advice)
        _log.warning("%s: %s", what, advice)
