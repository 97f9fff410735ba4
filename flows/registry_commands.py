"""Commands of the registry (`python -m tasks.registry`), run in a checkout with the params of that checkout.

An alias moves, so it is pinned before a stage reads it: params.yaml gets the digest that the alias names now.
"""

from __future__ import annotations

import json
from pathlib import Path

from flows.dvc_project.stage_run import run_module
from flows.git_work.workspaces import params
from tasks.core import paths
from tasks.core.errors import GateRefused, RegistryError

CHAMPION, INIT_ADAPTER = "respond.champion", "train.init_adapter"  # the params that name a version
ADAPTERS, RESPOND = "adapters", "respond"  # the stage that resolves both, and the one that reads the champion
_NOT_PROMOTED = (3, 4)  # exit statuses: the gate keeps the present champion, or cannot decide yet


def run_command(workspace: Path, *arguments: str) -> str:
    """Run a command of the registry in ``workspace`` and return what it printed.

    Raises:
        GateRefused: The gate keeps the present champion, or cannot decide yet.
        RegistryError: The version cannot be found, or the registry cannot be read or written.
    """
    done = run_module(workspace, "tasks.registry", *arguments)
    if done.returncode == 0:
        return done.stdout.strip()

    last_line = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["the registry's command failed"]
    kind = GateRefused if done.returncode in _NOT_PROMOTED else RegistryError
    raise kind(last_line[0].removeprefix("[registry] error: "))


def pin(workspace: Path, key: str, version: str) -> str:
    """Write the digest that ``version`` names into the params.yaml of ``workspace``; return a line that says so.

    A champion that does not exist yet becomes null. Where the champion is the adapter that was just trained, the file
    stays as it is.

    Raises:
        RegistryError: The version cannot be found, or the registry cannot be read.
    """
    options = ["--or-none", "--unless-same", str(paths.ADAPTER)] if key == CHAMPION else []
    return run_command(workspace, "pin", key, version, *options)


def champion(workspace: Path) -> str | None:
    """Return the version that the registry of ``workspace`` has promoted, as name@digest; None before the first.

    Raises:
        PipelineError: The registry cannot be read, or is damaged.
    """
    section = params(workspace).get("register", {})
    # where the gate moves another alias (`register.alias: candidate`), people move the alias champion
    for alias in ("champion", str(section.get("alias") or "")):
        name = f"{section.get('name', '')}@{alias}".removesuffix("@")
        version: str | None = json.loads(run_command(workspace, "resolve", name, "--or-none", "--json"))["version"]
        if version:
            return version
    return None
