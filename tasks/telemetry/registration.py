"""The version that results/register names, looked up in the registry.

The file alone proves nothing: DVC restores it in clones and checkouts whose registry does not hold the version.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from tasks.core import paths
from tasks.core.files import read_json

NOT_HERE = "results/register is not here"


@dataclasses.dataclass(frozen=True)
class Registration:
    """A version, and what the registry says of it.

    Attributes:
        name: Its series of versions.
        digest: The version.
        serial: Its serial number; None where the registry does not vouch for it.
        aliases: The aliases that point to it now.
        outcome: What the gate said when it was registered.
        fault: Why the registry does not vouch for it; empty where it does.
    """

    name: str
    digest: str
    serial: int | None = None
    aliases: tuple[str, ...] = ()
    outcome: str = ""
    fault: str = ""

    def __str__(self) -> str:
        """Return all of it in one line."""
        if self.fault:
            return f"{self.name} {self.digest[:12]} is not registered: {self.fault}"
        state = f"promoted to {', '.join(self.aliases)}" if self.aliases else f"not promoted ({self.outcome})"
        return f"{self.name} v{self.serial} ({self.digest[:12]}), {state}"


def look_up(root: Path = Path()) -> Registration | None:
    """Ask the registry of the checkout at ``root`` for the version that its results/register names; None without one.

    The registry's own command is run, as only the rooms of the registry open it.
    """
    file = root / paths.REGISTER / "registration.json"
    if not file.is_file():
        return None
    entry = read_json(file)
    name, digest = str(entry["name"]), str(entry["version"])

    command = [sys.executable, "-m", "tasks.registry", "show", f"{name}@{digest}", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        last_line = done.stderr.strip().splitlines()[-1:] or ["the registry's command failed"]
        return Registration(name, digest, fault=last_line[0].removeprefix("[registry] error: "))

    row = json.loads(done.stdout)
    if row["serial"] is None:
        return Registration(name, digest, fault="its registration was cut short — `dvc repro register` finishes it")
    return Registration(name, digest, row["serial"], tuple(row["aliases"]), str(row["outcome"]))
