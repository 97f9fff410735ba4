"""Where a version comes from: code, data, base and packages, for lineage.json.

These facts are recorded beside a version and are no part of its digest: the same weights on the
same evidence are the same version, from whichever checkout they were registered.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core.errors import ArtifactError
from tasks.core.files import manifest_digest, read_json, read_manifest
from tasks.core.provenance import git_revision, versions

_HASHES = ("md5", "etag", "version_id", "checksum")  # by which DVC names content, local or remote


def trace(base: Path, pairs: Path, train_results: Path, lock: Path, checkout: Path) -> dict[str, Any]:
    """Gather the lineage of what now lies in the stages' output folders.

    Args:
        base: Output of the base stage.
        pairs: Output of the ingest stage.
        train_results: Metrics of the train stage, which count the pairs it used.
        lock: dvc.lock; without one, as in a run by hand, there are no stages.
        checkout: A folder in the git checkout that ran the stages.
    """
    pinned = read_manifest(base, "base")
    return {
        "git": git_revision(checkout),
        "stages": stage_hashes(lock),
        "base": {key: pinned.get(key) for key in ("kind", "source", "revision", "digest")},
        "data": {
            "digest": manifest_digest(pairs, "ingest"),
            "pairs_used": read_json(train_results / "metrics.json").get("pairs"),
        },
        "packages": versions(),
    }


def stage_hashes(lock: Path) -> dict[str, Any]:
    """Return, for each stage of dvc.lock but `register`, the hash of each dependency and output.

    Raises:
        ArtifactError: The file is no lock file of DVC.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not lock.is_file():
        return {}
    try:
        stages = YAML(typ="safe", pure=True).load(lock.read_text(encoding="utf-8"))["stages"]
        return {
            stage: {side: _hashes(record.get(side) or []) for side in ("deps", "outs")}
            for stage, record in sorted(stages.items())
            if stage != "register"  # its entry is that of the run before this one
        }
    except (YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        raise ArtifactError(f"{lock} is no lock file of DVC", "restore it with git, or run `dvc repro`") from None


def _hashes(items: list[Mapping[str, Any]]) -> dict[str, str | None]:
    return {item["path"]: next((str(item[key]) for key in _HASHES if key in item), None) for item in items}
