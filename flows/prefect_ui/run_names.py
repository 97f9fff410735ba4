"""Names of flow runs: the flow, the name of the versions in the registry, and the checkout's commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import runtime

from flows.git_work.workspaces import params
from tasks.core.errors import ConfigError
from tasks.telemetry.git_calls import git_or_none


def of_run() -> str:
    """Return the name of the current run, as `pipeline demo main@26b7df1`; `+` marks uncommitted changes."""
    parameters: dict[str, Any] = runtime.flow_run.parameters or {}
    folder = parameters.get("workspace") or parameters.get("repository") or "."
    return " ".join(filter(None, (runtime.flow_run.flow_name, *describe_checkout(Path(folder)))))


def of_registry_change() -> str:
    """Return the name of the current run, one that changes the registry, as `promote demo@v3`."""
    parameters: dict[str, Any] = runtime.flow_run.parameters or {}
    return f"{runtime.flow_run.flow_name} {parameters.get('version') or parameters.get('name')}"


def describe_checkout(workspace: Path) -> tuple[str, str]:
    """Return the name of the versions and `branch@commit` of a checkout; empty where they are unknown."""
    try:
        name = params(workspace).get("register", {}).get("name", "")
    except ConfigError:
        name = ""
    commit = git_or_none(workspace, "rev-parse", "--short", "HEAD")
    branch = git_or_none(workspace, "rev-parse", "--abbrev-ref", "HEAD")
    dirty = "+" if git_or_none(workspace, "status", "--porcelain", "--untracked-files=no") else ""
    return str(name), f"{'' if branch == 'HEAD' else branch}@{commit}{dirty}" if commit else ""
