"""Reads the lineage: digests of the input folders, and the params that made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from tasks.core.base_model import BaseModel
from tasks.core.errors import ArtifactError
from tasks.core.files import manifest_digest, read_manifest
from tasks.core.nested import flatten
from tasks.page.facts import BaseFacts, Lineage

SECTIONS = ("base", "ingest", "encode", "train", "respond", "winrate")


def read_base(folder: Path) -> BaseFacts:
    """Read `data/base/`; a local folder is named by the last part of its path."""
    base = BaseModel.open(folder, check_files=False)
    name = base.source if base.kind == "hub" else PurePath(base.source).name
    return BaseFacts(base.kind, name, base.revision, base.digest, base.quantise)


def read_lineage(base: BaseFacts, folders: Mapping[str, tuple[str, Path]], params: Mapping[str, Any]) -> Lineage:
    """Collect digests and params, and check that all folders are from one run of the pipeline.

    Args:
        base: The base model.
        folders: By the name under which later stages record a folder: the stage that wrote it, and the folder.
        params: The sections of params.yaml; those in :data:`SECTIONS` are shown.

    Raises:
        ArtifactError: A folder is unfinished or damaged, or was made from other inputs than these.
    """
    digests = {name: manifest_digest(folder, stage) for name, (stage, folder) in folders.items()}
    inputs = {name: read_manifest(folder, stage).get("inputs", {}) for name, (stage, folder) in folders.items()}
    for name, recorded in inputs.items():
        _check_origin(folders[name], recorded, {"base": base.digest} | digests)

    reference = inputs["adapter"].get("reference")
    return Lineage(
        digests=(*digests.items(), *([("reference", str(reference))] if reference else [])),
        params=tuple((name, _lines(params[name])) for name in SECTIONS if params.get(name)),
        datasets=_hub_datasets(params.get("ingest")),
    )


def _check_origin(made: tuple[str, Path], recorded: Mapping[str, Any], present: Mapping[str, str]) -> None:
    """Refuse a folder that was made from other inputs than the present ones: a page must not mix two runs."""
    stage, folder = made
    for name in sorted(recorded.keys() & present.keys()):
        if recorded[name] != present[name]:
            raise ArtifactError(
                f"{folder} was made from another `{name}` than the present one", f"run `dvc repro {stage}`"
            )


def _lines(section: Any) -> tuple[tuple[str, str], ...]:
    """Return a section's keys, nested ones joined by dots, with their values as text."""
    return tuple(
        (key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
        for key, value in flatten(section).items()
    )


def _hub_datasets(ingest: Any) -> tuple[str, ...]:
    """Return the ids of the hub data sets in `ingest.sources` (`hub:ORG/NAME@REVISION`)."""
    sources = ingest.get("sources") if isinstance(ingest, dict) else None
    texts = [sources] if isinstance(sources, str) else sources or []
    names = [text.removeprefix("hub:").split("@")[0].split("#")[0] for text in texts if str(text).startswith("hub:")]
    return tuple(dict.fromkeys(names))
