"""One process a GPU: starts a stage as several ranks, reports how they ended, restarts killed ones."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from typing import Any

from tasks.core import paths, ranks
from tasks.core.errors import Busy, GateRefused, PipelineError, Preempted
from tasks.core.files import pretty_json, write_text
from tasks.core.params import load_section
from tasks.core.runtime import RuntimeConfig
from tasks.launch.stage import refuse_arguments
from tasks.telemetry import log, receipts

SECONDS_TO_STOP = 120  # for a rank to end its step and write a checkpoint
RESTARTS = 3  # of a stage one of whose ranks was killed


def relaunch_on_all_gpus(stage: str) -> None:
    """Run a stage as one rank a GPU, and exit with its exit code; return at once where one process is enough.

    One is enough under a launcher, with fewer than two GPUs, and where `runtime.device` is `cpu`. Where params.yaml
    cannot be read it returns as well, and the stage itself reports the error.
    """
    refuse_arguments(stage)
    try:
        if ranks.is_launched() or load_section(paths.PARAMS, "runtime", RuntimeConfig).device != "auto":
            return
    except PipelineError:
        return
    import torch

    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        sys.exit(launch(stage, torch.cuda.device_count()))


def launch(stage: str, count: int) -> int:
    """Run `python -m tasks.<stage>` as ``count`` ranks on this machine; return the exit code of the work.

    torchrun's launcher forwards SIGTERM and SIGINT and waits for a checkpoint. Its own report of a failure is silenced,
    for rank 0 has shown an expected error in one line, and the receipt says how the stage ended. An expected error of
    another rank is shown here, once however many ranks met it, and stands in the stage's receipt where it ended rank 0
    too. When a rank is killed, all ranks start again, at most ``RESTARTS`` times, and resume from the newest
    checkpoint; an error of the work itself would only come again.
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
            return {kind.kind: kind.exit_code for kind in (Preempted, Busy, GateRefused)}.get(status, 1)
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
    """Name the ranks that were killed by a signal, such as the kernel's when memory runs out; empty for none."""
    asked = (0, signal.SIGTERM, signal.SIGINT)
    lost = {rank: -failure.exitcode for rank, failure in sorted(error.failures.items()) if failure.exitcode < 0}
    return ", ".join(
        f"rank {rank} was killed by signal {number}" for rank, number in lost.items() if number not in asked
    )


def _settle(stage: str, before: dict[int, receipts.Receipt], was_asked: bool) -> str | None:
    """Report the errors of ranks other than rank 0, and put the first one into the stage's receipt if it is the cause.

    Rank 0's own end may be a consequence of another rank's: then its receipt is missing, says `bug` (its traceback is
    on standard error already) or `ok`, or says that it was asked to stop though nobody asked the launcher.

    Args:
        stage: The stage's name.
        before: The receipts from before the run. Contents are compared, not times: a network disk has its own clock.
        was_asked: Whether the launcher itself was asked to stop.

    Returns:
        The status in the stage's receipt now; None where there is no new receipt.
    """
    fresh = {rank: receipt for rank, receipt in receipts.read_receipts(stage).items() if receipt != before.get(rank)}
    main = fresh.pop(0, None)
    status = None if main is None else str(main["status"])

    # what the other ranks met; "asked to stop" is an error only where the launcher was asked
    failed = [
        receipt
        for receipt in fresh.values()
        if receipt.get("error") and (was_asked or receipt["status"] != Preempted.kind)
    ]
    kinds = {kind.kind for kind in PipelineError.__subclasses__()}
    expected = [receipt for receipt in failed if receipt["status"] in kinds]
    reported = {main.get("error")} if main else set()
    for receipt in expected:
        if receipt["error"] not in reported:
            log.say(stage, receipt["error"].partition(": ")[2], "error", rank=receipt["rank"])
        reported.add(receipt["error"])

    is_consequence = status in (None, "ok", "bug") or (status == Preempted.kind and not was_asked)
    causes = expected or ([] if status == "bug" else failed)
    if not (causes and is_consequence):
        return status
    cause = {name: causes[0][name] for name in ("status", "error", "rank")}
    with contextlib.suppress(OSError):
        write_text(receipts.receipt_path(stage), pretty_json({**(main or causes[0]), **cause}))
    return str(cause["status"])
