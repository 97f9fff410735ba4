"""A folder in transformers' format: which files make up the model, their hashes, and the model's size."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tasks.core.errors import ConfigError, DataError
from tasks.core.files import sha256_file
from tasks.telemetry.log import bar

PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"  # what transformers loads, the first one first
ADAPTER = "adapter_config.json"
_POINTER = b"version https://git-lfs.github.com/spec/"
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
    """Return the names of the files that make up a model and its tokenizer: of weights, only those that are loaded.

    Raises:
        DataError: The folder lacks a config, a tokenizer or whole safetensors weights; or it holds an adapter, a
            pointer of Git LFS, or a link to nothing.
    """
    names = {path.name for pattern in PATTERNS for path in folder.glob(pattern)} - set(_WRITTEN_BESIDE)
    for name in sorted(names):
        _check_content(folder / name)
    refuse_adapter(str(folder), names)
    if "config.json" not in names:
        raise DataError(f"{folder} has no config.json", "name a folder in transformers' format in `base.source`")
    if not any(name in names for name in _TOKENIZERS):
        raise DataError(f"{folder} has no tokenizer ({', '.join(_TOKENIZERS)})", "save the tokenizer beside the model")
    return sorted({name for name in names if not is_weights(name)} | _loaded_weights(folder, names))


def is_weights(name: str) -> bool:
    """Tell whether a file holds weights, or is an index of files that do."""
    return ".safetensors" in name


def refuse_adapter(place: str, names: Collection[str]) -> None:
    """Refuse an adapter in a model's folder or repository: transformers loads it into the base without a word.

    Raises:
        DataError: Naming its config.
    """
    if ADAPTER not in names:
        return
    if WEIGHTS in names or INDEX in names:
        advice = "move the adapter's files to another folder, and name that in `train.init_adapter` to go on from it"
        raise DataError(f"{place} has an adapter ({ADAPTER}) beside the model's weights", advice)
    raise DataError(
        f"{place} holds an adapter ({ADAPTER}) and no model",
        "name the adapter's base model in `base.source`, and the adapter in `train.init_adapter`",
    )


def _check_content(path: Path) -> None:
    """Refuse a link to nothing and a pointer of Git LFS."""
    if not path.exists():
        raise DataError(f"{path} is a link to a file that is not there", "download the model again")
    with path.open("rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
            raise DataError(f"{path} is a Git LFS pointer, not the file itself", "run `git lfs pull` there")


def _loaded_weights(folder: Path, names: Collection[str]) -> set[str]:
    """Return the files of weights that transformers loads; refuse pickled, absent and incomplete ones."""
    if WEIGHTS in names:
        return {WEIGHTS}
    if INDEX in names:
        shards = set(shards_of(folder / INDEX))
        if missing := sorted(shards - set(names)):
            raise DataError(f"{folder} lacks {', '.join(missing)}, which {INDEX} names", "download the model again")
        return {INDEX, *shards}

    advice = "save the model there with `save_pretrained(…)`, which writes safetensors"
    if others := sorted(filter(is_weights, names)):
        raise DataError(f"{folder} has {', '.join(others)}, and transformers loads {WEIGHTS} or {INDEX} alone", advice)
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        raise DataError(f"{folder} has its weights as a pickle only, which can run code when loaded", advice)
    raise DataError(f"{folder} has no weights (*.safetensors)", advice)


def shards_of(index: Path) -> list[str]:
    """Return the files that an index of weights names.

    Raises:
        DataError: It is no such index.
    """
    named = read_object(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise DataError(f"{index} names no files of weights", "download the model again")
    return sorted(set(named.values()))


def hash_model(folder: Path, names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return SHA-256 and size of every file that makes up a model and its tokenizer."""
    hashes = {}
    with bar("hashing the base model", total=len(names), unit="file") as shown:
        for name in names:
            hashes[name] = {"sha256": sha256_file(folder / name), "size": (folder / name).stat().st_size}
            shown.update()
    return hashes


def describe_model(folder: Path, names: Collection[str]) -> dict[str, Any]:
    """Return size and vocabulary of a model from its config and the headers of its weights, ``names`` of its files.

    Raises:
        DataError: A file of weights or the config is damaged.
    """
    from safetensors import SafetensorError, safe_open

    parameters = 0
    for path in (folder / name for name in names if name.endswith(".safetensors")):
        try:
            with safe_open(path, framework="numpy") as weights:
                parameters += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
        except SafetensorError as error:
            raise DataError(f"{path} is not a safetensors file ({error})", "download or save the model again") from None
    return {
        "parameters": parameters,
        "vocabulary": text_config(read_object(folder / "config.json")).get("vocab_size", 0),
    }


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return what a config says of the language model; models of more than text keep that in an object of its own."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object that came with a model."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error})", "download or save the model again") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no JSON object", "download or save the model again")
    return value
