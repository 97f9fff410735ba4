"""What moves is pinned before a stage reads it: a registry's alias becomes the digest that it names now."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from flows.stages import environment
from tasks.core import paths
from tasks.core.errors import RegistryError

CHAMPION, INIT_ADAPTER = "respond.champion", "train.init_adapter"
RESPOND = "respond"  # the stage that reads the champion


def pin(workspace: Path, key: str, version: str) -> str:
    """Write what ``version`` names into the params.yaml of ``workspace``; return a line that says so.

    A champion that does not exist yet is none, and the adapter that was just trained is not its own opponent.

    Raises:
        RegistryError: The version cannot be found, or the registry cannot be read.
    """
    words = ["--or-none", "--unless-same", str(paths.ADAPTER)] if key == CHAMPION else []
    command = [sys.executable, "-m", "tasks.registry", "pin", key, version, *words]
    done = subprocess.run(command, cwd=workspace, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["the registry's command failed"]
        raise RegistryError(said[0].removeprefix("[registry] error: "))
    return done.stdout.strip()
