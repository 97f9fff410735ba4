"""DPO from Python, without DVC or Prefect: pairs in, token ids, reference log-probabilities, a trained adapter out.

The names are those of the rooms; the README shows them in order. `from tasks.api import dpo`.
"""

from __future__ import annotations

from tasks.core.runtime import RuntimeConfig
from tasks.dpo.model.adapter import LoraSettings, attach_lora
from tasks.dpo.objective.pair_loss import ObjectiveConfig
from tasks.dpo.reference.reference_pass import reference_logps
from tasks.dpo.training.adapter_saving import save_adapter
from tasks.dpo.training.train_config import TrainConfig
from tasks.dpo.training.trainer import train
from tasks.pairs.encoding.encoder import EncodeConfig, encode_pairs
from tasks.pairs.ingestion.intake import read_pairs
from tasks.pairs.ingestion.split import split_pairs

__all__ = [
    "EncodeConfig",
    "LoraSettings",
    "ObjectiveConfig",
    "RuntimeConfig",
    "TrainConfig",
    "attach_lora",
    "encode_pairs",
    "read_pairs",
    "reference_logps",
    "save_adapter",
    "split_pairs",
    "train",
]
