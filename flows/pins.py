"""What moves is pinned before a stage reads it: a registry's alias becomes the digest that it names now."""

from __future__ import annotations

from pathlib import Path

from flows.registry_commands import ask
from tasks.core import paths

CHAMPION, INIT_ADAPTER = "respond.champion", "train.init_adapter"
ADAPTERS, RESPOND = "adapters", "respond"  # the stage that resolves both, and the one that the champion is for


def pin(workspace: Path, key: str, version: str) -> str:
    """Write what ``version`` names into the params.yaml of ``workspace``; return a line that says so.

    A champion that does not exist yet is none, and the adapter that was just trained is not its own opponent.

    Raises:
        RegistryError: The version cannot be found, or the registry cannot be read.
    """
    words = ["--or-none", "--unless-same", str(paths.ADAPTER)] if key == CHAMPION else []
    return ask(workspace, "pin", key, version, *words)
