"""The registry's commands, run in a checkout: `python -m tasks.registry`, with the params of that checkout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from flows.dvc_project.stage_run import environment
from flows.git_work.workspaces import params
from tasks.core.errors import GateRefused, RegistryError

_UNDECIDED = (3, 4)  # exit statuses: the gate keeps what stands; it cannot tell yet


def ask(workspace: Path, *words: str) -> str:
    """Run a command of the registry in ``workspace`` and return what it printed.

    Raises:
        GateRefused: The gate keeps what stands, or cannot tell yet.
        RegistryError: The version cannot be found, or the registry cannot be read or written.
    """
    command = [sys.executable, "-m", "tasks.registry", *words]
    done = subprocess.run(command, cwd=workspace, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout.strip()
    said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["the registry's command failed"]
    kind = GateRefused if done.returncode in _UNDECIDED else RegistryError
    raise kind(said[0].removeprefix("[registry] error: "))


def champion(workspace: Path) -> str | None:
    """Return the version that the registry of ``workspace`` has promoted, as name@digest; None where there is none yet.

    Raises:
        PipelineError: The registry cannot be read, or is damaged.
    """
    section = params(workspace).get("register", {})
    # where the gate moves an alias of its own (`register.alias: candidate`), people move the champion
    for alias in ("champion", str(section.get("alias") or "")):
        word = f"{section.get('name', '')}@{alias}".removesuffix("@")
        found: str | None = json.loads(ask(workspace, "resolve", word, "--or-none", "--json"))["version"]
        if found:
            return found
    return None
