"""Reads the lineage: digests of the input folders, and the params that made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core.base_model import BaseModel
from tasks.core.errors import ArtifactError
from tasks.core.files import manifest_digest, read_manifest
from tasks.core.nested import flatten
from tasks.page.facts import Lineage

SECTIONS = ("base", "ingest", "encode", "train", "respond", "winrate")


def read_lineage(base: BaseModel, folders: Mapping[str, tuple[str, Path]], params: Mapping[str, Any]) -> Lineage:
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
    present = {"base": base.digest} | digests
    for name, recorded in inputs.items():
        for other in sorted(recorded.keys() & present.keys()):
            if recorded[other] != present[other]:
                stage, folder = folders[name]
                raise ArtifactError(
                    f"{folder} was made from another `{other}` than the present one", f"run `dvc repro {stage}`"
                )

    reference = inputs["adapter"].get("reference")
    return Lineage(
        digests=(*digests.items(), *([("reference", str(reference))] if reference else [])),
        params=tuple((name, _lines(params[name])) for name in SECTIONS if params.get(name)),
        datasets=_hub_datasets(params.get("ingest")),
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
    entries = [sources] if isinstance(sources, str) else sources or []
    texts = [str(entry.get("path") if isinstance(entry, dict) else entry) for entry in entries]
    names = [text.removeprefix("hub:").split("@")[0].split("#")[0] for text in texts if text.startswith("hub:")]
    return tuple(dict.fromkeys(names))
