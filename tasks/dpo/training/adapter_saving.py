"""Saving the adapter in PEFT's format, with the same bytes each time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peft import get_peft_model_state_dict
from safetensors.torch import save as safetensors_bytes

from tasks.core.base_model import BaseModel
from tasks.core.files import pretty_json, write_bytes, write_text
from tasks.core.pinned_adapter import CONFIG, WEIGHTS


def save_adapter(policy: Any, folder: Path, base: BaseModel | None = None) -> None:
    """Write the adapter in PEFT's format, with the same bytes each time.

    PEFT's own writer writes sets into the config, and their order differs from process to process.

    Args:
        policy: The model that :func:`attach_lora` returned.
        folder: Where `adapter_config.json` and `adapter_model.safetensors` are written.
        base: The base that the config names; by default what the model was loaded from.
    """
    config = json.loads(json.dumps(policy.peft_config["default"].to_dict(), default=_plain))
    config["inference_mode"] = True
    if base is not None:
        config["base_model_name_or_path"], config["revision"] = base.location, base.revision

    # The embeddings are the base's: by default PEFT would ask the hub whether they were resized.
    tensors = get_peft_model_state_dict(policy, save_embedding_layers=False)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    write_bytes(folder / WEIGHTS, safetensors_bytes(state, metadata={"format": "pt"}))
    write_text(folder / CONFIG, pretty_json(config))


def _plain(value: Any) -> Any:
    """Return a value of a PEFT config that JSON has no type for as one that it has, in a fixed order."""
    return sorted(value) if isinstance(value, set | frozenset) else getattr(value, "value", str(value))
