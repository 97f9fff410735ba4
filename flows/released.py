"""The registry's commands, run in a checkout: `python -m tasks.registry`, with the params of that checkout."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from flows.stages import environment
from flows.workspaces import params
from tasks.core.errors import GateRefused, RegistryError

_UNDECIDED = (3, 4)  # exit statuses: the gate keeps what stands; it cannot tell yet


@dataclasses.dataclass(frozen=True)
class Champion:
    """What a registry's alias names: `address` is the version by its whole digest, which never means another."""

    address: str
    serial: int


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


def champion(workspace: Path) -> Champion | None:
    """Return what the registry of ``workspace`` has promoted; None where there is nothing yet.

    Raises:
        RegistryError: The registry cannot be read.
    """
    section = params(workspace).get("register", {})
    name, alias = str(section.get("name", "")), str(section.get("alias") or "champion")
    versions: list[dict[str, Any]] = json.loads(ask(workspace, "list", "--json") or "[]")
    for version in versions:
        if version["name"] == name and alias in version["aliases"]:
            return Champion(f"{name}@{version['digest']}", version["serial"])
    return None
