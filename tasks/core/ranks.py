"""Which process this is among those that share a stage.

``torchrun`` sets the rank and the world size in the environment; without it there is one rank.
"""

from __future__ import annotations

import os

LAUNCHER = "DPO_LAUNCHER"  # the process id of our launcher, in the environment of the ranks that it starts


def rank() -> int:
    """Return this process's rank over all machines, 0 when alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes over all machines, 1 when alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Tell whether this is the process that writes files and prints."""
    return rank() == 0


def is_launched() -> bool:
    """Tell whether a launcher (torchrun, accelerate) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_of_launcher() -> bool:
    """Tell whether our launcher started this process: then it reports the error in this rank's receipt."""
    return os.environ.get(LAUNCHER) == str(os.getppid())
