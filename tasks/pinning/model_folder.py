"""A folder in transformers' format: which files make up the model, their hashes, and the model's size."""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tasks.core.errors import ConfigError, DataError
from tasks.core.files import sha256_file
from tasks.telemetry.log import bar

ADAPTER = "adapter_config.json"
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
SETTINGS = ("*.json", "*.jinja", "*.model", "*.txt")
NO_SETTINGS = (  # what others write beside a model, and transformers does not read
    *("manifest.json", "metrics.json", "curve.csv"),  # by the base stage, next to the demo's model
    *("trainer_state.json", "*_results.json", "*.index.json", "*.index.*.json"),
)
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_POINTER = b"version https://git-lfs.github.com/spec/"
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")
_AGAIN = "download or save the model again"


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


def settings_files(names: Collection[str], place: object) -> list[str]:
    """Return which of the ``names`` in a folder or repository are a model's config, tokenizer and index of weights.

    Raises:
        DataError: The names lack a config or a tokenizer, or there is an adapter among them.
    """
    _refuse_adapter(names, place)
    if CONFIG not in names:
        raise DataError(f"{place} has no {CONFIG}", "name a folder in transformers' format in `base.source`")
    if not any(name in names for name in _TOKENIZERS):
        raise DataError(f"{place} has no tokenizer ({', '.join(_TOKENIZERS)})", "save the tokenizer beside the model")

    index = {INDEX} & set(names)
    return sorted(index | {name for name in names if _fits(name, SETTINGS) and not _fits(name, NO_SETTINGS)})


def weight_files(names: Collection[str], index: dict[str, Any] | None, place: object) -> list[str]:
    """Return which of the ``names`` are the weights that transformers loads: one file, or the shards of the index.

    Args:
        names: Every file of the folder or repository.
        index: What model.safetensors.index.json holds; None without such a file.
        place: The folder or repository, for messages.

    Raises:
        DataError: Weights are absent, incomplete, pickled or under another name.
    """
    shards = _shards(index, place) if index is not None else []
    if missing := sorted(set(shards) - set(names)):
        raise DataError(f"{place} lacks {', '.join(missing)}, which its {INDEX} names", "download the model again")
    if weights := [WEIGHTS] if WEIGHTS in names else shards:
        return weights

    if others := sorted(name for name in names if name.endswith(".safetensors")):
        what = f"{place} has its weights as {', '.join(others[:3])}, which transformers does not load"
        raise DataError(what, f"save the model with `save_pretrained(…)`, or rename the file to {WEIGHTS}")
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        advice = "save it with `save_pretrained(…)`, which writes safetensors"
        raise DataError(f"{place} has its weights as a pickle only, which can run code when loaded", advice)
    raise DataError(f"{place} has no weights (*.safetensors)", "save the model there with `save_pretrained(…)`")


def model_files(folder: Path) -> list[str]:
    """Return the names of the files in ``folder`` that make up a model and its tokenizer, sorted.

    Raises:
        DataError: As :func:`settings_files` and :func:`weight_files`, or a file is a link without its target or a
            pointer of Git LFS.
    """
    return sorted({*settings_in(folder), *weights_in(folder)})


def settings_in(folder: Path) -> list[str]:
    """Return the names of config, tokenizer and index in ``folder``, all of them checked as in :func:`model_files`."""
    return _whole(folder, settings_files(_names_in(folder), folder))


def index_in(folder: Path) -> dict[str, Any] | None:
    """Read the index of weights in ``folder``; None without one.

    Raises:
        DataError: It is damaged.
    """
    return read_object(folder / INDEX) if (folder / INDEX).exists() else None


def weights_in(folder: Path) -> list[str]:
    """Return the names of the weights in ``folder``, all of them checked as in :func:`model_files`."""
    return _whole(folder, weight_files(_names_in(folder), index_in(folder), folder))


def _names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_symlink() or path.is_file()]


def _fits(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _refuse_adapter(names: Collection[str], place: object) -> None:
    """Refuse an adapter: transformers loads it together with the base beside it, without a word."""
    if ADAPTER not in names:
        return
    if WEIGHTS in names or INDEX in names:
        what = f"{place} has {ADAPTER} beside whole weights: the base would be loaded with that adapter"
        advice = "move the adapter's files to another folder, and name that in `train.init_adapter` if it is meant"
        raise DataError(what, advice)
    what = f"{place} is an adapter ({ADAPTER}) without the weights of a model"
    raise DataError(what, "name its base in `base.source`, and the adapter in `train.init_adapter` if it is meant")


def _shards(index: dict[str, Any], place: object) -> list[str]:
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise DataError(f"{place}'s {INDEX} has no `weight_map` of file names", _AGAIN)
    if not isinstance(index.get("metadata"), dict):
        raise DataError(
            f"{place}'s {INDEX} has no `metadata`, which transformers reads", 'write `"metadata": {}` there'
        )
    return sorted(set(places.values()))


def _whole(folder: Path, names: list[str]) -> list[str]:
    """Return ``names``, each of them a file whose bytes are here."""
    for path in (folder / name for name in names):
        if not path.exists():
            what = f"{path} is a link to {path.readlink()}, where no file is"
            raise DataError(what, "copy the files themselves (`cp -L`), or download the model again")
        with path.open("rb") as stream:
            is_pointer = stream.read(len(_POINTER)) == _POINTER
        if is_pointer:
            raise DataError(f"{path} is a pointer of Git LFS, not the file itself", "run `git lfs pull` there")
    return names


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

    shapes: dict[str, list[int]] = {}
    for path in (folder / name for name in model_files(folder) if name.endswith(".safetensors")):
        try:
            with safe_open(path, framework="numpy") as weights:
                shapes |= {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise DataError(f"{path} is not a safetensors file ({error})", _AGAIN) from None

    vocabulary = vocabulary_of(folder)
    embeddings = [name for name in shapes if name.endswith(_EMBEDDINGS)]
    if len(embeddings) == 1 and vocabulary not in (0, rows := shapes[embeddings[0]][0]):
        what = f"{folder / CONFIG} has {vocabulary} as `vocab_size`, and {embeddings[0]} has {rows} rows"
        raise DataError(what, f"write {rows} there, or save the model again")
    return {"parameters": sum(map(math.prod, shapes.values())), "vocabulary": vocabulary}


def vocabulary_of(folder: Path) -> int:
    """Return `vocab_size` of the model's config; 0 where it has none.

    Raises:
        DataError: The config is damaged, or the size is no number.
    """
    config = read_object(folder / CONFIG)
    text = config.get("text_config")  # models of more than text keep the language model's size there
    size = (text if isinstance(text, dict) else config).get("vocab_size") or 0
    if not isinstance(size, int):
        raise DataError(f"{folder / CONFIG} has {size!r} as `vocab_size`", "write a whole number")
    return size


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object that came with a model.

    Raises:
        DataError: It is none.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error})", _AGAIN) from None
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no JSON object", _AGAIN)
    return value
