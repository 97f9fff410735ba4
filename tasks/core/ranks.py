"""Which process this is among those that share a stage, and how a stage starts more of them.

``torchrun`` tells every process its place through the environment; without it there is one rank.
"""

from __future__ import annotations

import os
import subprocess
import sys


def rank() -> int:
    """Return this process's rank over all machines, 0 when alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes over all machines, 1 when alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Tell whether this is the process that writes files and talks to people."""
    return rank() == 0


def is_launched() -> bool:
    """Tell whether a launcher (torchrun, accelerate) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def visible_gpus() -> int:
    """Return the number of CUDA devices that this process may use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def relaunch_on_all_gpus(module: str) -> None:
    """Under no launcher and with several GPUs visible, run ``module`` once a GPU and exit as it does.

    Returns at once when there is nothing to spread over. SIGINT and SIGTERM reach the ranks because
    torchrun passes them on.
    """
    if is_launched() or (count := visible_gpus()) < 2:
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={count}", "-m", module]
    os.execv(sys.executable, command) if os.name == "posix" else sys.exit(subprocess.call(command))
