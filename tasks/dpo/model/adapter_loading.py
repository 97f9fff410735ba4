"""The adapter that training continues from: read without pickles, checked against the base, loaded to be trained.

The policy starts from it, and frozen it is the reference, so the first step's margins are zero.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from tasks.core.errors import ArtifactError, ConfigError
from tasks.core.pinned_adapter import CONFIG, INIT_KEY, WEIGHTS
from tasks.dpo.model.adapter import LoraSettings, is_named, train_in_float32, wrap

# Keys of an adapter's config that may have any value. Others must have PEFT's default, for training does not continue
# from DoRA, from whole layers beside the adapter, or from an initialisation that changed the base's weights.
_FREE = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "peft_version",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "task_type",
    "use_rslora",
}
_SHOWN = 3


def load_adapter(model: Any, folder: Path, settings: LoraSettings | None = None) -> Any:
    """Attach the adapter in ``folder`` to ``model``, to continue its training: frozen base, float32 adapter.

    Args:
        model: The base model.
        folder: Holds the adapter's two files.
        settings: `train.lora`, which must describe the adapter's shape; its dropout is used in training.

    Raises:
        ArtifactError: The files are damaged.
        ConfigError: The adapter is no plain LoRA, does not fit the model, or ``settings`` describes another shape.
    """
    config = _read_config(folder / CONFIG)
    tensors = _read_weights(folder / WEIGHTS)
    if settings is not None:
        config.lora_dropout = settings.dropout
    head = model.get_output_embeddings()
    layers = {  # that `all-linear` stands for: every linear one but the head
        name
        for name, module in model.named_modules()
        if module is not head and (isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D")
    }
    policy = wrap(model, config, f"`{INIT_KEY}`: the adapter does not fit the base", "give one of this base")
    _check_fit(tensors, get_peft_model_state_dict(policy, save_embedding_layers=False))
    set_peft_model_state_dict(policy, tensors)
    train_in_float32(policy)
    if settings is not None:
        _refuse_other_shape(config, set(policy.targeted_module_names), settings, layers)
    return policy


def _read_config(path: Path) -> LoraConfig:
    """Read an adapter's config; refuse what is no plain LoRA."""
    try:
        values = json.loads(path.read_bytes())
        kind = values.pop("peft_type", None)
    except (OSError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path} cannot be read ({error})", "restore the adapter from a copy") from None
    if kind != "LORA":
        what = f"`{INIT_KEY}`: {path} is an adapter of the kind {kind}"
        raise ConfigError(what, "training continues from LoRA adapters")

    defaults = {field.name: field.default for field in dataclasses.fields(LoraConfig)}
    for name, value in sorted(values.items()):
        is_plain = not value or value == defaults.get(name)
        if name == "init_lora_weights":
            is_plain = value in (True, False, "gaussian")
        if name not in _FREE and not is_plain:
            what = f"`{INIT_KEY}`: the adapter's `{name}` is {str(value)[:60]}"
            raise ConfigError(what, "training continues from plain LoRA: merge it into the base")
    known = {name: value for name, value in values.items() if name in defaults and name != "auto_mapping"}
    return LoraConfig(**{**known, "init_lora_weights": True, "inference_mode": False})


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_tensors(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read ({error})", "restore the adapter from a copy") from None
    bad = [name for name, tensor in sorted(tensors.items()) if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise ArtifactError(f"{path} holds NaN or infinite values, in {bad[0]}", "choose another adapter")
    return tensors


def _check_fit(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Refuse tensors whose names or shapes are not exactly those that the model's adapters need."""
    faults = [f"no {name}" for name in sorted(expected.keys() - tensors.keys())]
    faults += [f"an unexpected {name}" for name in sorted(tensors.keys() - expected.keys())]
    faults += [
        f"{name} of shape {list(tensors[name].shape)}, not {list(expected[name].shape)}"
        for name in sorted(expected.keys() & tensors.keys())
        if tensors[name].shape != expected[name].shape
    ]
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        what = f"`{INIT_KEY}`: the adapter does not fit the base: it has {'; '.join(faults[:_SHOWN])}{more}"
        raise ConfigError(what, "give an adapter of this base")


def _refuse_other_shape(config: LoraConfig, targeted: set[str], settings: LoraSettings, layers: set[str]) -> None:
    """Refuse params that describe another shape than the adapter has: its shape is fixed."""
    for key, value, asked in (("rank", config.r, settings.rank), ("alpha", config.lora_alpha, settings.alpha)):
        if value != asked:
            what = f"`train.lora.{key}` is {asked}, the adapter of `{INIT_KEY}` has {value}"
            raise ConfigError(what, f"write {value}")

    names = settings.target_modules
    wanted = layers if isinstance(names, str) else {n for n in layers | targeted for name in names if is_named(n, name)}
    if wanted != targeted:
        one = sorted(wanted ^ targeted)[0]
        what = f"`train.lora.target_modules` {'names' if one in wanted else 'leaves out'} {one}"
        shown = sorted({name.rpartition(".")[2] for name in targeted})
        raise ConfigError(f"{what}, unlike the adapter of `{INIT_KEY}`", f"name its layers: {', '.join(shown)}")
