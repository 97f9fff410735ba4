"""A reward model of transformers, on every GPU of this machine: the score of the last token of each conversation.

transformers takes the score of the last token that is not the padding token. Where that is also the end token, it is
not the end of the conversation that is scored but the token before. So a batch is padded with an id that stands in none
of its texts. B is the number of texts of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from tasks.core.errors import DataError
from tasks.core.runtime import RuntimeConfig
from tasks.judges.models.replicas import Replicas, devices_of, padded
from tasks.judges.models.reward_source import SECTION
from tasks.judges.models.row_cache import Floats, TokenText

_TOKENS = 8192  # of a batch, where params leave it to memory


class RewardModel:
    """Scores conversations; bfloat16 on CUDA, float32 on a CPU.

    Args:
        folder: The model.
        runtime: Devices, and tokens of a batch.
    """

    def __init__(self, folder: Path, runtime: RuntimeConfig) -> None:
        self._devices = devices_of(runtime)
        tokens = _TOKENS if runtime.tokens_per_micro_batch == "auto" else runtime.tokens_per_micro_batch
        self._replicas = Replicas(lambda device: load_reward_model(folder, device), score_batch, self._devices, tokens)

    @property
    def precision(self) -> str:
        """What it computes in."""
        return f"{_dtype(self._devices[0])} on {self._devices[0].type}"

    def read(self, texts: Sequence[TokenText]) -> list[Floats]:
        """Return the score of each text: float32 [1]."""
        return self._replicas.read(texts)


def _dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def load_reward_model(folder: Path, device: torch.device) -> Any:
    """Load a reward model, frozen and in evaluation mode.

    Raises:
        DataError: It does not load, or its files lack weights, such as those of the head: they would be random.
    """
    try:
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            str(folder),
            dtype=_dtype(device),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # noqa: BLE001  # of transformers, torch or safetensors
        what = f"the reward model in {folder} does not load ({' '.join(str(error).split())[:300]})"
        raise DataError(what, f"correct `{SECTION}.source`") from None
    missing = sorted([*loaded["missing_keys"], *(key[0] for key in loaded.get("mismatched_keys") or ())])
    if missing:
        what = f"the reward model in {folder} has no weights for {', '.join(missing[:3])}, which would be random"
        raise DataError(what, "name a model that was trained to score answers, not a base of one")
    model.requires_grad_(False).eval()
    return model.to(device)


def score_batch(model: Any, texts: list[TokenText], device: torch.device) -> Floats:
    """Return the score of each text's last token: float32 [B, 1]."""
    pad_id = None if len(texts) == 1 else _free_id(texts, model.get_input_embeddings().num_embeddings)
    if pad_id is None and len(texts) > 1:  # every token of the vocabulary stands in the batch
        half = len(texts) // 2
        halves = [score_batch(model, part, device) for part in (texts[:half], texts[half:])]
        return torch.cat([torch.from_numpy(part) for part in halves]).numpy()

    for config in (model.config, model.config.get_text_config()):
        config.pad_token_id = pad_id
    ids, mask = padded(texts, pad_id or 0, device)
    scores: Floats = model(input_ids=ids, attention_mask=mask).logits.float().reshape(len(texts), 1).cpu().numpy()
    return scores


def _free_id(texts: Sequence[TokenText], vocabulary: int) -> int | None:
    """Return the lowest id that stands in no text, None where each stands in one."""
    used = {token for text in texts for token in text.ids}
    return next((token for token in range(vocabulary) if token not in used), None)
