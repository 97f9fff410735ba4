"""The pinned base's tokenizer: its files' hashes, loading it, and where the base stops generating."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.core.base_model import BaseModel
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
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(
            f"the base model {base.source} has no tokenizer that loads ({reason})", "add it there"
        ) from None


def generation_eos(base: BaseModel) -> list[int]:
    """Return the ids at which the base's generation config stops; none if it has no such file."""
    path: str | Path | None = Path(base.location) / "generation_config.json"
    if base.kind == "hub":
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(base.location, "generation_config.json", revision=base.revision)
        path = cached if isinstance(cached, str) else None
    if path is None or not Path(path).is_file():
        return []
    ids = read_json(Path(path)).get("eos_token_id")
    return ids if isinstance(ids, list) else [] if ids is None else [ids]
