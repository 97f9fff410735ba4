"""Whether a model's weights fit its config: transformers loads them on the meta device, which reads headers alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from tasks.core.errors import DataError
from tasks.pinning.model_folder import CONFIG, INDEX, weights_in
from tasks.pinning.model_settings import unread
from tasks.telemetry import log

_LAYER = re.compile(r"(.*?\b(?:layers|h|blocks)\.)(\d+)\.")
_log = log.get_logger(__name__)


def check_weights(folder: Path) -> None:
    """Refuse weights that are no model of config.json: other shapes, absent tensors, or more layers.

    Raises:
        DataError: As :func:`weights_in`; or naming the file, the first tensor, and what the config makes of it.
    """
    names = weights_in(folder)
    place, config = folder / (names[0] if len(names) == 1 else INDEX), folder / CONFIG
    model, loaded = _load_empty(folder)
    advice = f"correct {CONFIG}, or download or save the model again"

    for name, ours, wanted in sorted(loaded["mismatched_keys"]):
        what = f"{place} has {name} in the shape {_shape(ours)}, and {config} makes it {_shape(wanted)}"
        raise DataError(what, advice)
    if missing := sorted(loaded["missing_keys"]):
        what = f"{place} has no {missing[0]}, which {config} asks for ({len(missing)} tensors are absent)"
        raise DataError(what, f"{advice}; a base is a causal language model with all of its weights")

    stacks = {match[1] for name in model.state_dict() if (match := _LAYER.match(name))}
    unused = sorted(loaded["unexpected_keys"])
    for name in unused:
        if (match := _LAYER.match(name)) and match[1] in stacks:
            raise DataError(f"{place} has {name}, of a layer that {config} does not have", advice)
    if unused:
        _log.info("%s: %d tensors are no part of the model and stay unread, such as %s", place, len(unused), unused[0])


def _load_empty(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return the model without values, and what did not fit."""
    from transformers import AutoModelForCausalLM

    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            str(folder),
            device_map={"": torch.device("meta")},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            attn_implementation="eager",  # the config's own may not be installed on this machine
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except Exception as error:  # noqa: BLE001  # the library raises many kinds
        raise unread(folder, error, has_code=False) from None
    return model, loaded


def _shape(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "one number"
