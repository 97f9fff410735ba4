"""A folder in transformers' format: which files make up the model, their hashes, and the model's size."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tasks.core.errors import ConfigError, DataError
from tasks.core.files import sha256_file
from tasks.telemetry.log import bar

PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_WRITTEN_BESIDE = ("manifest.json", "metrics.json", "curve.csv")  # by the base stage, next to the demo's model


def local_folder(source: str) -> Path:
    """Return the folder that `base.source` names.

    Raises:
        ConfigError: There is none.
    """
    folder = Path(source)
    if not folder.is_dir():
        advice = "correct the path (~ is not expanded), or name a hub model as ORG/NAME"
        raise ConfigError(f"`base.source` is {source!r}, and there is no such folder", advice)
    return folder


def model_files(folder: Path) -> list[str]:
    """Return the names of the files that make up a model and its tokenizer.

    Raises:
        DataError: The folder has no config, no tokenizer or no whole safetensors weights.
    """
    names = sorted({path.name for pattern in PATTERNS for path in folder.glob(pattern)} - set(_WRITTEN_BESIDE))
    if "config.json" not in names:
        raise DataError(f"{folder} has no config.json", "name a folder in transformers' format in `base.source`")
    if not any(name in names for name in _TOKENIZERS):
        raise DataError(f"{folder} has no tokenizer ({', '.join(_TOKENIZERS)})", "save the tokenizer beside the model")
    _check_weights(folder, names)
    return names


def _check_weights(folder: Path, names: list[str]) -> None:
    """Refuse pickled, absent and incomplete weights."""
    for index in (name for name in names if name.endswith(".safetensors.index.json")):
        missing = sorted(set(_read_object(folder / index).get("weight_map", {}).values()) - set(names))
        if missing:
            raise DataError(f"{folder} lacks {', '.join(missing)}, which {index} names", "download the model again")
    if any(name.endswith(".safetensors") for name in names):
        return
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        advice = "save it with `save_pretrained(…)`, which writes safetensors"
        raise DataError(f"{folder} has its weights as a pickle only, which can run code when loaded", advice)
    raise DataError(f"{folder} has no weights (*.safetensors)", "save the model there with `save_pretrained(…)`")


def hash_model(folder: Path) -> dict[str, dict[str, Any]]:
    """Return SHA-256 and size of every file that makes up a model and its tokenizer.

    Raises:
        DataError: As :func:`model_files`.
    """
    names, hashes = model_files(folder), {}
    with bar("hashing the base model", total=len(names), unit="file") as shown:
        for name in names:
            hashes[name] = {"sha256": sha256_file(folder / name), "size": (folder / name).stat().st_size}
            shown.update()
    return hashes


def describe_model(folder: Path) -> dict[str, Any]:
    """Return size and vocabulary of a model from its config and the headers of its weights.

    Raises:
        DataError: As :func:`model_files`, or a file of weights or the config is damaged.
    """
    from safetensors import SafetensorError, safe_open

    parameters = 0
    for path in (folder / name for name in model_files(folder) if name.endswith(".safetensors")):
        try:
            with safe_open(path, framework="numpy") as weights:
                parameters += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
        except SafetensorError as error:
            raise DataError(f"{path} is not a safetensors file ({error})", "download or save the model again") from None
    config = _read_object(folder / "config.json")
    text = config.get("text_config", config)  # models of more than text keep the language model's size there
    return {"parameters": parameters, "vocabulary": int(text.get("vocab_size", 0))}


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object that came with a model."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error})", "download or save the model again") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no JSON object", "download or save the model again")
    return value
