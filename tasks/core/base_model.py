"""The pinned base model, as every stage after `base` finds it: a source, a revision and a digest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core.errors import ArtifactError, NetworkError
from tasks.core.files import read_manifest, sha256_file, verify_manifest

KINDS = ("demo", "local", "hub")


@dataclasses.dataclass(frozen=True)
class BaseModel:
    """What `data/base/` pins.

    Attributes:
        kind: `demo` (weights lie in the stage's own folder), `local` (a folder elsewhere) or `hub`.
        source: The folder or hub id as params.yaml gives it.
        revision: The hub commit, 40 hex digits; None for folders.
        digest: Hash of the names and hashes of all model files, and of the quantization where there is one: the
            identity of base and tokenizer.
        location: What `from_pretrained` is called with.
        quantise: `none`, or `nf4`: the weights of linear layers take four bits in reference, training and generation.
        compute_dtype: The dtype of reference, training and generation: `float32`, `bfloat16` (on a CPU only for the
            matrix products of linear layers), or `auto`. It is not part of the digest, for an adapter fits the base in
            either; the reference records the dtype that it was computed in.
    """

    kind: str
    source: str
    revision: str | None
    digest: str
    location: str
    quantise: str = "none"
    compute_dtype: str = "auto"

    @classmethod
    def open(cls, folder: Path, check_files: bool = True) -> BaseModel:
        """Read `data/base/`, and check that the weights, here, in a folder or in the hub's cache, are the pinned bytes.

        Raises:
            ArtifactError: The manifest is missing or wrong, or a file changed since.
            NetworkError: The hub's cache lacks a file, and the hub does not give it.
        """
        manifest = verify_manifest(folder, "base") if check_files else read_manifest(folder, "base")
        if manifest.get("kind") not in KINDS or "digest" not in manifest:
            raise ArtifactError(f"{folder}/manifest.json is not a base manifest", "run `dvc repro base`")
        location = str(folder) if manifest["kind"] == "demo" else manifest["source"]
        if check_files and manifest["kind"] != "demo":
            _check_files(manifest)
        revision, quantise = manifest.get("revision"), manifest.get("quantise", "none")
        dtype = manifest.get("compute_dtype", "auto")
        return cls(manifest["kind"], manifest["source"], revision, manifest["digest"], location, quantise, dtype)

    def dtype_on(self, device_type: str) -> str:
        """Return the dtype to compute in on a `cuda` or `cpu` device, by torch's name for it.

        `auto` is float32 on a CPU, for most CPUs have no bfloat16 products.
        """
        if self.compute_dtype != "auto":
            return self.compute_dtype
        return "bfloat16" if device_type == "cuda" else "float32"

    def load_tokenizer(self) -> Any:
        """Load the tokenizer of the pinned base (a transformers fast tokenizer); code beside it never runs.

        Raises:
            ArtifactError: It does not load.
        """
        from transformers import AutoTokenizer

        revision = self.revision or "main"
        try:
            return AutoTokenizer.from_pretrained(self.location, revision=revision, trust_remote_code=False)
        except Exception as error:  # noqa: BLE001  # tokenizers raises Exception itself
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            what = f"the base model {self.source} has no tokenizer that loads ({reason})"
            raise ArtifactError(what, "add it there, or run `dvc repro -f base`") from None


def _check_files(manifest: Mapping[str, Any]) -> None:
    """Refuse a model, in a local folder or in the hub's cache, whose files are no longer those that `base` hashed."""
    is_hub, source = manifest["kind"] == "hub", manifest["source"]
    advice = "restore it, or pin it anew with `dvc repro -f base`"
    for name, entry in manifest["model_files"].items():
        path = _in_hub_cache(source, manifest["revision"], name) if is_hub else Path(source) / name
        if (path.parent / "adapter_config.json").exists():
            what = f"{path.parent} has adapter_config.json beside its weights, and the base would be loaded with it"
            raise ArtifactError(what, "move the adapter to another folder")
        if not path.is_file():
            raise ArtifactError(f"the base model's file {path} is missing", "restore it, or run `dvc repro -f base`")

        if path.stat().st_size != entry["size"] or sha256_file(path) != entry["sha256"]:
            if is_hub:
                advice = f"delete {path.resolve()}: it is downloaded again"
            raise ArtifactError(f"{path} changed since the base stage pinned it", advice)


def _in_hub_cache(source: str, revision: str, name: str) -> Path:
    """Return a file of a hub model in the hub's cache, downloaded if it is not there.

    Raises:
        NetworkError: It is not there, and the hub does not give it.
    """
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported on demand

    if isinstance(cached := try_to_load_from_cache(source, name, revision=revision), str):
        return Path(cached)
    try:
        return Path(hf_hub_download(source, name, revision=revision))
    except (errors.LocalEntryNotFoundError, httpx.HTTPError, ConnectionError) as error:
        reason = " ".join(str(error).split())[:200]
        what = f"the base model's file {name} is not in the hub's cache, and the hub does not give it ({reason})"
        raise NetworkError(what, f"check that this machine may download {source} at {revision}") from None
