"""One process a GPU: a stage started as many ranks, their ends settled, killed ones started again."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from typing import Any

from tasks.core import paths, ranks
from tasks.core.errors import GateRefused, PipelineError, Preempted
from tasks.core.files import pretty_json, write_text
from tasks.core.params import load_section
from tasks.core.runtime import RuntimeConfig
from tasks.launch.arguments import refuse_arguments
from tasks.telemetry import log, receipts

SECONDS_TO_STOP = 120  # for a rank to end its step and write a checkpoint


RESTARTS = 3  # of a stage one of whose ranks was killed


def visible_gpus() -> int:
    """Return the number of CUDA devices that this process may use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def relaunch_on_all_gpus(stage: str) -> None:
    """Under no launcher and with several GPUs visible, run a stage once a GPU and exit as its rank 0 did.

    Returns at once where there is nothing to spread over, where `runtime.device` is `cpu`, and where
    params.yaml cannot be read: then the stage itself says so, once.
    """
    refuse_arguments(stage)
    if ranks.is_launched() or not _wants_gpus() or (count := visible_gpus()) < 2:
        return
    sys.exit(launch(stage, count))


def launch(stage: str, count: int) -> int:
    """Run `python -m tasks.<stage>` as ``count`` ranks on this machine; return the exit code of the work.

    torchrun's launcher passes SIGTERM and SIGINT on and waits for a checkpoint. Rank 0 has told the
    user of an expected error in one line, so the launcher's own account of it is left out: the
    receipt says how the stage ended. An expected error of another rank is told here, once however many
    ranks met it, and stands in the stage's receipt where rank 0 was only torn down by it. When a rank is
    killed, all are started again, at most ``RESTARTS`` times, and go on from the newest checkpoint; an
    error of the work itself would only come again.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does
    os.environ[ranks.LAUNCHER] = str(os.getpid())
    for restarts_left in range(RESTARTS, -1, -1):
        for path in receipts.receipts_of_others(stage).values():
            receipts.remove(path)
        before = receipts.read_receipts(stage)
        try:
            _run_ranks(stage, count)
            return 0
        except (ChildFailedError, SignalException) as error:
            was_asked = isinstance(error, SignalException)
            status = _settle(stage, before, was_asked)
            killed = "" if was_asked or status not in (None, "bug") else _killed(error)
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


def _settle(stage: str, before: dict[int, receipts.Receipt], was_asked: bool) -> str | None:
    """Tell what ranks other than rank 0 found wrong, and let the first of it stand where rank 0's is a consequence.

    What is torn down by another rank's end is a bug by its receipt, has none, or was done already; or it says that
    it was told to stop, though nobody asked the launcher. A bug's own traceback has told of it.

    Args:
        stage: The stage's name.
        before: The receipts that there were before; clocks are not compared, for a network disk has its own.
        was_asked: Whether the launcher itself was told to stop.

    Returns:
        How the stage's receipt now says that it ended; None where there is no new one.
    """
    left = {number: found for number, found in receipts.read_receipts(stage).items() if found != before.get(number)}
    own = left.pop(0, None)
    status = None if own is None else str(own["status"])
    errors = [
        found for found in left.values() if found.get("error") and (was_asked or found["status"] != Preempted.kind)
    ]
    expected = [found for found in errors if found["status"] in {kind.kind for kind in PipelineError.__subclasses__()}]
    told = {own.get("error")} if own else set()
    for found in expected:
        if found["error"] not in told:
            log.say(stage, found["error"].partition(": ")[2], "error", rank=found["rank"])
        told.add(found["error"])
    is_consequence = status in (None, "ok", "bug") or (status == Preempted.kind and not was_asked)
    causes = expected or ([] if status == "bug" else errors)
    if not (causes and is_consequence):
        return status
    cause = {name: causes[0][name] for name in ("status", "error", "rank")}
    with contextlib.suppress(OSError):
        write_text(receipts.receipt_path(stage), pretty_json({**(own or causes[0]), **cause}))
    return str(cause["status"])
