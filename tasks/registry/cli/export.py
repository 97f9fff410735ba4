"""Exports of a version: to a repository on the Hub, merged into the base's weights, for a vLLM server."""

from __future__ import annotations

import contextlib
import json
import shlex
import tempfile
from pathlib import Path
from typing import Any

from tasks.core.base_model import BaseModel
from tasks.core.errors import ArtifactError, RegistryError
from tasks.core.files import atomic_folder
from tasks.hub.hub_errors import asking_hub
from tasks.registry.log.names import short
from tasks.registry.versions.manifest import ADAPTER_CONFIG, LINEAGE
from tasks.registry.versions.registry import Registry


def to_hub(registry: Registry, digest: str, repository: str, is_private: bool) -> str:
    """Upload a version's files to a model repository, which is created if absent; return the commit's address.

    The token is that of huggingface_hub: HF_TOKEN, or the one that `hf auth login` stored.

    Raises:
        ConfigError: The Hub refuses.
        NetworkError: The Hub does not answer.
    """
    from huggingface_hub import HfApi

    api, name = HfApi(), f"{registry.name} {short(digest)}"
    advice = "write OWNER/NAME, and set HF_TOKEN to a token that may write there"
    with tempfile.TemporaryDirectory() as folder:
        registry.pull(digest, version := Path(folder) / "version")
        with asking_hub(repository, advice):
            api.create_repo(repository, private=is_private, exist_ok=True)
            done = api.upload_folder(repo_id=repository, folder_path=version, commit_message=f"Registry version {name}")
    return str(done.commit_url)


def merged(registry: Registry, digest: str, base: Path, target: Path) -> None:
    """Write a checkpoint of the base with the version's adapter merged into its weights, and its tokenizer.

    The sum is computed in float32 and written in the dtype of the base's files.

    Args:
        registry: Where the version is.
        digest: The version.
        base: Output of the base stage: the base that the version was trained on.
        target: The folder to write, absent or empty.

    Raises:
        ArtifactError: The base is another one, or does not load.
        RegistryError: ``target`` is not empty, or the version is damaged.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RegistryError(f"{target} exists and is not an empty folder", "name a new folder to write into")

    pinned, trained_on = BaseModel.open(base), registry.read(digest).identity.base
    if pinned.digest != trained_on:
        what = f"{base} is the base {short(pinned.digest)}, version {short(digest)} was trained on {short(trained_on)}"
        raise ArtifactError(what, "give the base stage's output of its lineage as --base")

    place = {"pretrained_model_name_or_path": pinned.location, "revision": pinned.revision or "main"}
    dtype = getattr(AutoConfig.from_pretrained(**place), "dtype", None) or torch.float32
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"the base model {pinned.source} does not load ({error})", "fetch it again") from None

    with tempfile.TemporaryDirectory() as folder:
        registry.pull(digest, Path(folder) / "version")
        whole: Any = PeftModel.from_pretrained(model, Path(folder) / "version").merge_and_unload()
    with contextlib.suppress(FileNotFoundError):
        target.rmdir()
    with atomic_folder(target, {"version": digest, "name": registry.name, "base": pinned.digest}) as draft:
        whole.to(dtype).save_pretrained(draft)
        pinned.load_tokenizer().save_pretrained(draft)


def vllm_line(registry: Registry, digest: str, folder: Path) -> str:
    """Return the command that serves a version, pulled into ``folder``, under its registry's name."""
    config = json.loads(registry.read_file(digest, ADAPTER_CONFIG))
    base = json.loads(registry.read_file(digest, LINEAGE))["base"]
    ranks = [config.get("r", 8), *(config.get("rank_pattern") or {}).values()]
    words = ["vllm", "serve", str(base["source"])]
    words += ["--revision", str(base["revision"])] if base.get("revision") else []
    words += ["--enable-lora", "--max-lora-rank", str(_served_rank(max(ranks)))]
    return shlex.join([*words, "--lora-modules", f"{registry.name}={folder}"])


def _served_rank(rank: int) -> int:
    """Return the smallest rank that vLLM supports and that is at least ``rank``."""
    return next((known for known in (1, 8, 16, 32, 64, 128, 256, 320, 512) if known >= rank), rank)
