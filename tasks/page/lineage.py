"""Reads what the result rests on: digests of every input folder, and the params that made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from tasks.core.base_model import BaseModel
from tasks.core.files import manifest_digest, read_manifest
from tasks.page.facts import BaseFacts, Lineage

SECTIONS = ("base", "ingest", "encode", "train", "respond", "winrate")


def read_base(folder: Path) -> BaseFacts:
    """Read `data/base/`, naming a folder by its last part: a machine's path says nothing to others."""
    base = BaseModel.open(folder, check_files=False)
    name = base.source if base.kind == "hub" else PurePath(base.source).name
    return BaseFacts(base.kind, name, base.revision, base.digest)


def read_lineage(folders: Mapping[str, Path], params: Mapping[str, Any]) -> Lineage:
    """Collect digests and params.

    Args:
        folders: The stage that wrote a folder, and the folder; `train` names the adapter's.
        params: params.yaml's sections; those in :data:`SECTIONS` are shown where they are there.

    Raises:
        ArtifactError: A folder is unfinished or damaged.
    """
    digests = [(stage, manifest_digest(folder, stage)) for stage, folder in folders.items()]
    inputs = read_manifest(folders["train"], "train").get("inputs", {})
    digests += [(f"train ← {name}", str(digest)) for name, digest in sorted(inputs.items())]
    return Lineage(
        digests=tuple(digests),
        params=tuple((name, tuple(_flat(params[name]))) for name in SECTIONS if params.get(name)),
        datasets=_hub_datasets(params.get("ingest")),
    )


def _flat(section: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return a section's keys, nested ones joined by dots, with their values as text."""
    if not isinstance(section, dict) or not section:
        return [(prefix, section if isinstance(section, str) else json.dumps(section, ensure_ascii=False, default=str))]
    return [pair for key, value in section.items() for pair in _flat(value, f"{prefix}.{key}".lstrip("."))]


def _hub_datasets(ingest: Any) -> tuple[str, ...]:
    """Return the ids of the hub's data sets among `ingest.sources` (`hub:ORG/NAME@REVISION`)."""
    sources = ingest.get("sources") if isinstance(ingest, dict) else None
    texts = [sources] if isinstance(sources, str) else sources or []
    found = [text.removeprefix("hub:").split("@")[0].split("#")[0] for text in texts if str(text).startswith("hub:")]
    return tuple(dict.fromkeys(found))
