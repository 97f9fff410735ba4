"""Which process this is among those that share a stage, and how a stage starts more of them.

``torchrun`` tells every process its place through the environment; without it there is one rank.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from typing import Any

from tasks.core import log, paths
from tasks.core.errors import GateRefused, PipelineError, Preempted
from tasks.core.files import read_json
from tasks.core.params import load_section
from tasks.core.runtime import RuntimeConfig

SECONDS_TO_STOP = 120  # for a rank to end its step and write a checkpoint
RESTARTS = 3  # of a stage one of whose ranks was killed


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


def relaunch_on_all_gpus(stage: str) -> None:
    """Under no launcher and with several GPUs visible, run a stage once a GPU and exit as its rank 0 did.

    Returns at once where there is nothing to spread over, where `runtime.device` is `cpu`, and where
    params.yaml cannot be read: then the stage itself says so, once.
    """
    if is_launched() or not _wants_gpus() or (count := visible_gpus()) < 2:
        return
    sys.exit(launch(stage, count))


def launch(stage: str, count: int) -> int:
    """Run `python -m tasks.<stage>` as ``count`` ranks on this machine; return the exit code of the work.

    torchrun's launcher passes SIGTERM and SIGINT on and waits for a checkpoint. Rank 0 has told the
    user of an expected error in one line, so the launcher's own account of it is left out: the
    receipt says how the stage ended. When a rank is killed, all are started again, at most
    ``RESTARTS`` times, and go on from the newest checkpoint; an error of the work itself would only come again.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does
    for restarts_left in range(RESTARTS, -1, -1):
        began = time.time()
        try:
            _run_ranks(stage, count)
            return 0
        except (ChildFailedError, SignalException) as error:
            status = _status_of_receipt(stage, began)
            killed = _killed(error) if isinstance(error, ChildFailedError) and status in (None, "bug") else ""
            if killed and restarts_left:
                log.say(stage, f"{killed}: starting again from the newest checkpoint", "warning")
                continue
            if status is None:
                log.say(stage, f"the ranks ended without a receipt: {error}", "error")
                return 1
            return {kind.kind: kind.exit_code for kind in (Preempted, GateRefused)}.get(status, 1)
    return 1


def _run_ranks(stage: str, count: int) -> None:
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=stage,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,  # torchrun's own would also do again what failed for good
        shutdown_timeout=SECONDS_TO_STOP,
    )
    elastic_launch(config, sys.executable)("-m", f"tasks.{stage}")


def _killed(error: Any) -> str:
    """Say which ranks a signal ended that asks for nothing, as the kernel's does when memory runs out."""
    asked = (0, signal.SIGTERM, signal.SIGINT)
    lost = {rank: -failure.exitcode for rank, failure in sorted(error.failures.items()) if failure.exitcode < 0}
    return ", ".join(
        f"rank {rank} was killed by signal {number}" for rank, number in lost.items() if number not in asked
    )


def _wants_gpus() -> bool:
    """Tell whether params.yaml lets this machine's GPUs be used; False where it cannot be read."""
    try:
        return load_section(paths.PARAMS, "runtime", RuntimeConfig).device == "auto"
    except PipelineError:
        return False


def _status_of_receipt(stage: str, since: float) -> str | None:
    """Return how rank 0's receipt says that the stage ended; None if it wrote none since then."""
    path = paths.RECEIPTS / f"{stage}.json"
    if not path.is_file() or path.stat().st_mtime < since:
        return None
    return str(read_json(path).get("status"))
