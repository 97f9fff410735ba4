"""Commands of the registry (`python -m tasks.registry`), run in a checkout with the params of that checkout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from flows.dvc_project.stage_run import environment
from flows.git_work.workspaces import params
from tasks.core.errors import GateRefused, RegistryError

_NOT_PROMOTED = (3, 4)  # exit statuses: the gate keeps the present champion, or cannot decide yet


def ask(workspace: Path, *arguments: str) -> str:
    """Run a command of the registry in ``workspace`` and return what it printed.

    Raises:
        GateRefused: The gate keeps the present champion, or cannot decide yet.
        RegistryError: The version cannot be found, or the registry cannot be read or written.
    """
    command = [sys.executable, "-m", "tasks.registry", *arguments]
    done = subprocess.run(command, cwd=workspace, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout.strip()

    last_line = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["the registry's command failed"]
    kind = GateRefused if done.returncode in _NOT_PROMOTED else RegistryError
    raise kind(last_line[0].removeprefix("[registry] error: "))


def champion(workspace: Path) -> str | None:
    """Return the version that the registry of ``workspace`` has promoted, as name@digest; None before the first.

    Raises:
        PipelineError: The registry cannot be read, or is damaged.
    """
    section = params(workspace).get("register", {})
    # where the gate moves another alias (`register.alias: candidate`), people move the alias champion
    for alias in ("champion", str(section.get("alias") or "")):
        name = f"{section.get('name', '')}@{alias}".removesuffix("@")
        version: str | None = json.loads(ask(workspace, "resolve", name, "--or-none", "--json"))["version"]
        if version:
            return version
    return None
