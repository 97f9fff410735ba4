"""The registry's commands that take a version elsewhere: to a folder, params.yaml, the Hub, a merged model, vLLM."""

from __future__ import annotations

import contextlib
import json
import shlex
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from tasks.core import paths
from tasks.core.base_model import BaseModel
from tasks.core.errors import ArtifactError, RegistryError
from tasks.core.files import atomic_folder, sha256_file
from tasks.hub.hub_errors import asking_hub
from tasks.registry.cli.output import Answer, find
from tasks.registry.log.names import short
from tasks.registry.versions import pinned
from tasks.registry.versions.manifest import ADAPTER_CONFIG, LINEAGE, WEIGHTS
from tasks.registry.versions.registry import Registry, UnknownVersion

_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # those that `--max-lora-rank` takes


def pull(args: Namespace) -> Answer:
    """Copy a version, verified, into a folder of its own."""
    (registry, digest), target = find(args), Path(args.to)
    registry.pull(digest, target)
    lines = [f"{registry.name} {short(digest)} is in {target}: PeftModel.from_pretrained(base, {str(target)!r})"]
    return Answer({"name": registry.name, "digest": digest, "folder": str(target)}, lines)


def pin(args: Namespace) -> Answer:
    """Write the digest that a name stands for now into params.yaml, as the champion to beat or the initial adapter."""
    value = None
    if version := _find_or_none(args):
        registry, digest = version
        weights = Path(args.unless_same or "", WEIGHTS)
        if args.unless_same and weights.is_file() and sha256_file(weights) == registry.read(digest).identity.weights:
            values = {"key": args.key, "value": None, "changed": False}
            return Answer(values, [f"{args.unless_same} is {registry.name} {short(digest)} itself: nothing is pinned"])
        value = f"{pinned.PREFIX}{registry.name}@{digest}"

    is_changed = pinned.pin(paths.PARAMS, args.key, value)
    verb = "is" if is_changed else "was already"
    return Answer({"key": args.key, "value": value, "changed": is_changed}, [f"{args.key} {verb} {value or 'null'}"])


def resolve(args: Namespace) -> Answer:
    """Print the whole digest that a name stands for now; a digest never stands for another version."""
    version = _find_or_none(args)
    word = f"{version[0].name}@{version[1]}" if version else None
    return Answer({"version": word}, [word or "nothing yet"])


def _find_or_none(args: Namespace) -> tuple[Registry, str] | None:
    """Find the version; return None if there is none yet and `--or-none` was given."""
    try:
        return find(args)
    except UnknownVersion:
        if not args.or_none:
            raise
        return None


def to_hub(args: Namespace) -> Answer:
    """Upload a version to a model repository on the Hub.

    The repository is created if absent. The token is that of huggingface_hub: HF_TOKEN, or the one that
    `hf auth login` stored.

    Raises:
        ConfigError: The Hub refuses.
        NetworkError: The Hub does not answer.
    """
    from huggingface_hub import HfApi

    registry, digest = find(args)
    api, name, repository = HfApi(), f"{registry.name} {short(digest)}", args.repository
    advice = "write OWNER/NAME, and set HF_TOKEN to a token that may write there"
    with tempfile.TemporaryDirectory() as folder:
        registry.pull(digest, version := Path(folder) / "version")
        with asking_hub(repository, advice):
            api.create_repo(repository, private=args.private, exist_ok=True)
            done = api.upload_folder(repo_id=repository, folder_path=version, commit_message=f"Registry version {name}")

    commit = str(done.commit_url)
    values = {"name": registry.name, "digest": digest, "repository": repository, "commit": commit}
    return Answer(values, [f"{name} is in {repository}: {commit}"])


def merged(args: Namespace) -> Answer:
    """Write a checkpoint of the base with a version's adapter merged into its weights.

    The sum is computed in float32 and written in the dtype of the base's files, with the tokenizer beside it.

    Raises:
        ArtifactError: The base is not the one that the version was trained on, or does not load.
        RegistryError: The folder is not empty, or the version is damaged.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    registry, digest = find(args)
    base, target = Path(args.base or paths.BASE), Path(args.to)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RegistryError(f"{target} exists and is not an empty folder", "name a new folder to write into")

    given, trained_on = BaseModel.open(base), registry.read(digest).identity.base
    if given.digest != trained_on:
        what = f"{base} is the base {short(given.digest)}, version {short(digest)} was trained on {short(trained_on)}"
        raise ArtifactError(what, "give the base stage's output of its lineage as --base")

    place: dict[str, Any] = {"pretrained_model_name_or_path": given.location, "revision": given.revision or "main"}
    try:
        dtype = getattr(AutoConfig.from_pretrained(**place, trust_remote_code=False), "dtype", None) or torch.float32
        model: Any = AutoModelForCausalLM.from_pretrained(
            **place, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:  # noqa: BLE001  # the library raises many kinds
        raise ArtifactError(f"the base model {given.source} does not load ({error})", "fetch it again") from None

    with tempfile.TemporaryDirectory() as folder:
        registry.pull(digest, Path(folder) / "version")
        whole: Any = PeftModel.from_pretrained(model, Path(folder) / "version").merge_and_unload()
    with contextlib.suppress(FileNotFoundError):
        target.rmdir()
    with atomic_folder(target, {"version": digest, "name": registry.name, "base": given.digest}) as draft:
        whole.to(dtype).save_pretrained(draft)
        given.load_tokenizer().save_pretrained(draft)

    lines = [f"{registry.name} {short(digest)} is merged in {target}: AutoModelForCausalLM.from_pretrained('{target}')"]
    return Answer({"name": registry.name, "digest": digest, "folder": str(target)}, lines)


def for_vllm(args: Namespace) -> Answer:
    """Pull a version and print the command with which vLLM serves it."""
    (registry, digest), target = find(args), Path(args.to)
    config = json.loads(registry.read_file(digest, ADAPTER_CONFIG))
    base = json.loads(registry.read_file(digest, LINEAGE))["base"]
    highest = max([config.get("r", 8), *(config.get("rank_pattern") or {}).values()])
    rank = next((known for known in _VLLM_RANKS if known >= highest), highest)

    words = ["vllm", "serve", str(base["source"])]
    words += ["--revision", str(base["revision"])] if base.get("revision") else []
    words += ["--enable-lora", "--max-lora-rank", str(rank)]
    line = shlex.join([*words, "--lora-modules", f"{registry.name}={target.absolute()}"])
    registry.pull(digest, target)
    return Answer({"name": registry.name, "digest": digest, "folder": str(target), "command": line}, [line])
