"""Where and when something was made: facts for receipts and lineage, never for hashed outputs."""

from __future__ import annotations

import datetime
import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

from tasks.telemetry.git_calls import git_or_none


def now() -> str:
    """Return the present time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def machine() -> dict[str, Any]:
    """Return host, processor count and GPUs (only when torch is already loaded: it is slow to load)."""
    facts: dict[str, Any] = {"host": platform.node(), "system": platform.platform(), "cpus": os.cpu_count()}
    if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
        facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return facts


def peak_memory_bytes() -> dict[str, int]:
    """Return the peak resident memory of this process, and of its GPU where one was used."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if (torch := sys.modules.get("torch")) and torch.cuda.is_available() and torch.cuda.is_initialized():
        peak["gpu"] = torch.cuda.max_memory_allocated()
    return peak


def git_revision(root: Path) -> dict[str, Any]:
    """Return the commit of the checkout at ``root`` and whether tracked files differ from it; None for unknown."""
    changes = git_or_none(root, "status", "--porcelain", "--untracked-files=no", timeout_s=20)
    commit = git_or_none(root, "rev-parse", "HEAD", timeout_s=20)
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}
