"""A version as a Git tag in GTO's form, so that `dvc artifacts get` and DVC's own registry find it.

adapter@v3.0.0          version 3, at the commit whose dvc.lock has its adapter
adapter#champion#1      where an alias points, newest last

A tag is at a commit, so the version must be the one that the commit's dvc.lock records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core import paths
from tasks.core.errors import ArtifactError, RegistryError
from tasks.registry.log.names import short
from tasks.registry.release.lineage import stage_hashes
from tasks.registry.versions.manifest import LINEAGE
from tasks.registry.versions.registry import Registry
from tasks.telemetry.git_calls import git_or_none

ARTIFACT = "adapter"  # its name under `artifacts:` in dvc.yaml


def check(registry: Registry, digest: str, checkout: Path = Path()) -> None:
    """Refuse to tag HEAD as a version that its dvc.lock does not record.

    Raises:
        RegistryError: dvc.lock at HEAD records another adapter, or none.
    """
    try:
        committed = stage_hashes(git_or_none(checkout, "show", f"HEAD:{paths.LOCK.as_posix()}") or "")
    except ArtifactError:
        committed = {}
    expected = _adapter(json.loads(registry.read_file(digest, LINEAGE)).get("stages") or {})
    if not expected or _adapter(committed) != expected:
        what = f"the dvc.lock of this checkout's HEAD does not hold the adapter of version {short(digest)}"
        raise RegistryError(what, "commit dvc.lock as that run left it, or check that commit out, and tag again")


def tag(registry: Registry, digest: str, alias: str, checkout: Path = Path()) -> list[str]:
    """Tag HEAD as a version and as the target of ``alias``; return the new tags, none if they existed.

    Raises:
        RegistryError: HEAD is not the commit of that version, or GTO refuses.
    """
    from gto import api
    from gto.exceptions import GTOException

    check(registry, digest, checkout)
    version, message = f"v{registry.history().serials()[digest]}.0.0", f"{registry.name} {digest}"
    before = _tags(checkout)
    try:
        if f"{ARTIFACT}@{version}" not in before:
            api.register(str(checkout), ARTIFACT, "HEAD", version=version, message=message)
        assigned = [name for name in before if name.startswith(f"{ARTIFACT}#{alias}#")]
        newest = max(assigned, key=lambda name: int(name.rpartition("#")[2]), default=None)
        if newest is None or _commit(checkout, newest) != _commit(checkout, "HEAD"):
            api.assign(str(checkout), ARTIFACT, alias, version, message=message, force=True, skip_registration=True)
    except GTOException as error:
        raise RegistryError(f"GTO made no tag: {error}", "see `gto show`") from None
    return sorted(_tags(checkout) - before)


def _commit(checkout: Path, name: str) -> str:
    return git_or_none(checkout, "rev-list", "-n", "1", name) or ""


def _adapter(stages: Mapping[str, Any]) -> Any:
    """Return the hash of train's adapter among those of :func:`stage_hashes`; None if there is none."""
    return (stages.get("train") or {}).get("outs", {}).get(paths.ADAPTER.as_posix())


def _tags(checkout: Path) -> set[str]:
    return set((git_or_none(checkout, "tag", "--list", f"{ARTIFACT}@*", f"{ARTIFACT}#*") or "").split())
