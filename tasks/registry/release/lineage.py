"""Where a version comes from: code, data, base, parent, seeds, packages and hardware, for lineage.json.

These facts are recorded with a version and are no part of its digest: the same weights with the same evidence are the
same version, from whichever checkout they were registered.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core import paths
from tasks.core.errors import ArtifactError
from tasks.core.files import manifest_digest, read_json, read_manifest
from tasks.core.params import parse_params
from tasks.core.versions import versions
from tasks.registry.log.names import is_digest
from tasks.registry.release.candidate import Sources
from tasks.telemetry.provenance import git_revision

_HASHES = ("md5", "etag", "version_id", "checksum")  # DVC's keys for a hash, of local or remote content


def trace(sources: Sources, params: str) -> dict[str, Any]:
    """Return the lineage of what the stages' folders hold now.

    Args:
        sources: Where to look.
        params: Text of params.yaml, whose seeds are recorded.
    """
    base = read_manifest(sources.base, "base")
    metrics = read_json(sources.train_results / "metrics.json")
    return {
        "git": git_revision(sources.checkout),
        "stages": stage_hashes(sources.lock.read_text(encoding="utf-8")) if sources.lock.is_file() else {},
        "base": {key: base.get(key) for key in ("kind", "source", "revision", "digest")},
        "data": {"digest": manifest_digest(sources.pairs, "ingest"), "pairs_used": metrics.get("pairs")},
        "parent": _parent_of(read_manifest(sources.init_adapter, "adapters").get("source")),
        "seeds": _seeds(params),
        "hardware": _hardware(sources.receipts / "train.json"),
        "packages": versions(),
    }


def stage_hashes(text: str) -> dict[str, Any]:
    """Return, for each stage in the text of a dvc.lock but `register`, the hash of each dependency and output.

    Raises:
        ArtifactError: The text is not that of a lock file of DVC.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        stages = YAML(typ="safe", pure=True).load(text)["stages"]
        return {
            stage: {side: _hashes(record.get(side) or []) for side in ("deps", "outs")}
            for stage, record in sorted(stages.items())
            if stage != "register"  # its entry is that of the run before this one
        }
    except (YAMLError, KeyError, TypeError, AttributeError):
        what = f"{paths.LOCK} is not a lock file of DVC"
        raise ArtifactError(what, "restore it with git, or run `dvc repro`") from None


def _hashes(items: list[Mapping[str, Any]]) -> dict[str, str | None]:
    return {item["path"]: next((str(item[key]) for key in _HASHES if key in item), None) for item in items}


def _parent_of(source: Any) -> dict[str, str] | None:
    """Return the version that training continued from (``name`` and ``digest``), or the ``folder`` of an adapter."""
    if not isinstance(source, str) or not source:
        return None
    name, _, digest = source.removeprefix("registry:").rpartition("@")
    return {"name": name, "digest": digest} if is_digest(digest) else {"folder": source}


def _seeds(params: str) -> dict[str, Any]:
    sections = parse_params(params, "params.yaml").items() if params else ()
    return {name: part["seed"] for name, part in sections if isinstance(part, dict) and "seed" in part}


def _hardware(path: Path) -> dict[str, Any] | None:
    """Return the machine that trained, without its host name, and the number of ranks, from train's receipt."""
    if not path.is_file():
        return None
    receipt = read_json(path)
    machine = {key: value for key, value in (receipt.get("machine") or {}).items() if key != "host"}
    return {**machine, "ranks": receipt.get("ranks")}
