"""A pinned adapter, as every stage after `adapters` finds it: a folder of two files, where they come from, a digest."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from tasks.core.errors import ArtifactError
from tasks.core.files import digest_of, sha256_file, verify_manifest

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
INIT_KEY, CHAMPION_KEY = "train.init_adapter", "respond.champion"


@dataclasses.dataclass(frozen=True)
class PinnedAdapter:
    """An adapter in a folder of `data/adapters/`.

    Attributes:
        folder: Where its two files lie, in PEFT's format.
        source: What params.yaml says: a folder, or a version of the registry.
        digest: Its identity: a SHA-256 in hex over its two files.
        base: Digest of the base that it was trained on, where that is known.
        name: The registry's name of it; None for a folder.
        version: The registry's digest of the version, 64 hex digits; None for a folder.
    """

    folder: Path
    source: str
    digest: str
    base: str | None = None
    name: str | None = None
    version: str | None = None

    @classmethod
    def open(cls, folder: Path, base: str) -> PinnedAdapter | None:
        """Read what the stage `adapters` wrote to ``folder``; None where params.yaml names no adapter.

        A folder that was never written counts as none: the stages that read a param which names an adapter refuse
        that (:func:`refuse_other_source`).

        Args:
            folder: A folder of `data/adapters/`.
            base: Digest of the base in `data/base/`, which the adapter will be put on.

        Raises:
            ArtifactError: The folder is damaged, the adapter was trained on another base, or its source changed since
                it was pinned.
        """
        if not folder.exists():
            return None
        manifest = verify_manifest(folder, "adapters")
        if manifest.get("source") is None:
            return None
        facts: dict[str, Any] = {key: manifest.get(key) for key in ("source", "digest", "base", "name", "version")}
        adapter = cls(folder, **facts)
        if adapter.base not in (None, base):
            what = f"{folder} holds an adapter of another base (digest {str(adapter.base)[:12]})"
            raise ArtifactError(what, "run `dvc repro adapters`")

        source = Path(adapter.source)
        if all((source / name).is_file() for name in (WEIGHTS, CONFIG)) and adapter_digest(source) != adapter.digest:
            what = f"the adapter in {source} changed since the adapters stage pinned it"
            raise ArtifactError(what, "restore it, or pin it anew with `dvc repro -f adapters`")
        return adapter

    def facts(self) -> dict[str, Any]:
        """Return what the folder's manifest says of the adapter."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "folder"}


def adapter_digest(folder: Path) -> str:
    """Return the identity of the adapter whose two files lie in ``folder``."""
    return digest_of({name: sha256_file(folder / name) for name in (WEIGHTS, CONFIG)})


def refuse_damaged(folder: Path, source: str) -> None:
    """Refuse weights in ``folder`` that are not whole safetensors, and a config that is no JSON object.

    Raises:
        ArtifactError: Naming the file and ``source``, where the adapter comes from.
    """
    from safetensors import SafetensorError, safe_open

    advice = "restore the adapter from a copy"
    try:
        with safe_open(folder / WEIGHTS, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ArtifactError(f"{WEIGHTS} of {source} cannot be read ({error})", advice) from None
    try:
        is_config = isinstance(json.loads((folder / CONFIG).read_bytes()), dict)
    except ValueError:
        is_config = False
    if not is_config:
        raise ArtifactError(f"{CONFIG} of {source} is no JSON object", advice)


def refuse_other_source(adapter: PinnedAdapter | None, folder: Path, key: str, word: str | None) -> None:
    """Refuse a pinned adapter that is not the one that the param ``key`` names now.

    Raises:
        ArtifactError: ``folder`` was written for another value of ``key``.
    """
    source = adapter.source if adapter else None
    if source != word:
        what = f"{folder} holds the adapter {source or 'null'}, `{key}` is {word or 'null'}"
        raise ArtifactError(what, "run `dvc repro adapters`")
