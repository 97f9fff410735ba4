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
    try:
        return base.load_tokenizer()
    except Exception as error:  # noqa: BLE001 what a damaged file raises differs from tokenizer to tokenizer
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ArtifactError(
            f"the base model {base.source} has no tokenizer that loads ({reason})", "add it there"
        ) from None


def generation_eos(base: BaseModel) -> list[int]:
    """Return the ids at which the base stops, by its generation config and its config; none if neither says.

    Raises:
        ArtifactError: A value there is no id.
    """
    ids: list[int] = []
    for name in ("generation_config.json", "config.json"):
        config = _read_config(base, name)
        nested = config.get("text_config")
        value = config.get("eos_token_id", nested.get("eos_token_id") if isinstance(nested, dict) else None)
        try:
            ids += [one for one in end_ids(value) if one not in ids]
        except ValueError as error:
            raise ArtifactError(
                f"`eos_token_id` in {name} of {base.source} is wrong: {error}", "run `dvc repro base`"
            ) from None
    return ids


def _read_config(base: BaseModel, name: str) -> dict[str, Any]:
    """Read a JSON object of the base's files; an empty one if there is no such file."""
    path: str | Path | None = Path(base.location) / name
    if base.kind == "hub":
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(base.location, name, revision=base.revision)
        path = cached if isinstance(cached, str) else None
    if path is None or not Path(path).is_file():
        return {}
    config = read_json(Path(path))
    return config if isinstance(config, dict) else {}
