"""The pinned base's tokenizer: its files' hashes, loading it, and where the base stops generating."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.core.base_model import BaseModel
from tasks.core.end_ids import end_ids
from tasks.core.errors import ArtifactError
from tasks.core.files import read_json, read_manifest


def tokenizer_hashes(folder: Path, base: BaseModel) -> dict[str, str]:
    """Return the hash of every file of the base that its tokenizer may be loaded from: of all but its weights."""
    files = read_manifest(folder, "base").get("model_files")
    if files is None:
        return {"base": base.digest}
    return {name: entry["sha256"] for name, entry in files.items() if ".safetensors" not in name}


def load_tokenizer(base: BaseModel) -> Any:
    """Load the base's tokenizer.

    Raises:
        ArtifactError: It does not load.
    """
    return base.load_tokenizer()


def generation_eos(base: BaseModel) -> list[int]:
    """Return the ids at which the base stops: its generation config's, or its config's where the former has none.

    Raises:
        ArtifactError: A file is no JSON object, or a value in it is no id.
    """
    try:
        return end_ids(base_settings(base, "generation_config.json"), base_settings(base, "config.json"))
    except ValueError as error:
        what = f"the base model {base.source} does not say where to stop: {error}"
        raise ArtifactError(what, "write a token id there, and run `dvc repro -f base`") from None


def base_settings(base: BaseModel, name: str) -> dict[str, Any]:
    """Return the object in a JSON file of the base; an empty one if it has no such file.

    Raises:
        ArtifactError: It is no JSON object.
    """
    path: str | Path | None = Path(base.location) / name
    if base.kind == "hub":
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(base.location, name, revision=base.revision)
        path = cached if isinstance(cached, str) else None
    if path is None or not Path(path).is_file():
        return {}
    value = read_json(Path(path))
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} holds no JSON object", "correct it, and run `dvc repro -f base`")
    return value
