"""Where a version comes from: code, data, base, parent, seeds, packages and hardware, for lineage.json.

These facts are recorded beside a version and are no part of its digest: the same weights on the
same evidence are the same version, from whichever checkout they were registered.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core import paths
from tasks.core.errors import ArtifactError
from tasks.core.files import manifest_digest, read_json, read_manifest
from tasks.core.params import parse_params
from tasks.core.versions import versions
from tasks.registry.log.names import is_digest
from tasks.telemetry.provenance import git_revision

_HASHES = ("md5", "etag", "version_id", "checksum")  # by which DVC names content, local or remote


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the lineage of what now lies in the stages' folders is read.

    Attributes:
        base: Output of the base stage.
        pairs: Output of the ingest stage.
        init_adapter: Output of the adapters stage, which names the adapter that training continued from.
        train_results: Metrics of the train stage, which count the pairs it used.
        lock: dvc.lock; without one, as in a run by hand, there are no stages.
        receipts: Where each stage left its receipt; without one nothing is known of the hardware.
        checkout: A folder in the git checkout that ran the stages.
    """

    base: Path
    pairs: Path
    init_adapter: Path
    train_results: Path
    lock: Path = paths.LOCK
    receipts: Path = paths.RECEIPTS
    checkout: Path = Path()


def trace(origin: Origin, params: str) -> dict[str, Any]:
    """Gather the lineage of what now lies in the stages' output folders.

    Args:
        origin: Where to look.
        params: Text of params.yaml, whose seeds are told.
    """
    pinned = read_manifest(origin.base, "base")
    metrics = read_json(origin.train_results / "metrics.json")
    return {
        "git": git_revision(origin.checkout),
        "stages": stage_hashes(origin.lock),
        "base": {key: pinned.get(key) for key in ("kind", "source", "revision", "digest")},
        "data": {"digest": manifest_digest(origin.pairs, "ingest"), "pairs_used": metrics.get("pairs")},
        "parent": parent_of(read_manifest(origin.init_adapter, "adapters").get("source")),
        "seeds": _seeds(params),
        "hardware": _hardware(origin.receipts / "train.json"),
        "packages": versions(),
    }


def parent_of(source: Any) -> dict[str, str] | None:
    """Return the version that training continued from: ``name`` and ``digest``, or the ``folder`` it lay in."""
    if not isinstance(source, str) or not source:
        return None
    name, _, digest = source.removeprefix("registry:").rpartition("@")
    return {"name": name, "digest": digest} if is_digest(digest) else {"folder": source}


def _seeds(params: str) -> dict[str, Any]:
    sections = parse_params(params, "params.yaml").items() if params else ()
    return {name: part["seed"] for name, part in sections if isinstance(part, dict) and "seed" in part}


def _hardware(receipt: Path) -> dict[str, Any] | None:
    """Return the machine that trained, without its name, and on how many ranks."""
    if not receipt.is_file():
        return None
    told = read_json(receipt)
    machine = {key: value for key, value in (told.get("machine") or {}).items() if key != "host"}
    return {**machine, "ranks": told.get("ranks")}


def stage_hashes(lock: Path) -> dict[str, Any]:
    """Return, for each stage of dvc.lock but `register`, the hash of each dependency and output.

    Raises:
        ArtifactError: The file is no lock file of DVC.
    """
    if not lock.is_file():
        return {}
    try:
        return hashes_of(lock.read_text(encoding="utf-8"))
    except ValueError:
        raise ArtifactError(f"{lock} is no lock file of DVC", "restore it with git, or run `dvc repro`") from None


def hashes_of(text: str) -> dict[str, Any]:
    """Return what :func:`stage_hashes` does, of the text of a lock file.

    Raises:
        ValueError: It is none.
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
        raise ValueError("not a lock file of DVC") from None


def _hashes(items: list[Mapping[str, Any]]) -> dict[str, str | None]:
    return {item["path"]: next((str(item[key]) for key in _HASHES if key in item), None) for item in items}
