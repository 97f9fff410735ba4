"""Run one stage through DVC and return its outcome; this module needs no Prefect.

DVC is called as `dvc --wait-for-lock repro --single-item --pull <stage>`, through run_cache.py. With `--pull`, missing
outputs are pulled from the remote if it has them, and made otherwise; an empty or missing remote is no error. DVC is
not started for a stage that is up to date.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from flows.dvc_project import outcome
from flows.dvc_project.graph import Stage, staleness_of
from flows.dvc_project.outcome import Outcome
from flows.process_tree.run_watched import TimedOut, run_watched
from flows.process_tree.supervisor import Grace
from tasks.core.errors import PipelineError
from tasks.telemetry import log
from tasks.telemetry.receipts import receipt_path

DVC = (sys.executable, "-P", str(Path(__file__).with_name("run_cache.py")))
_HINTS = (  # what DVC prints after every stage for a person at a prompt
    "To track the changes with git",
    "git add ",
    "To enable auto staging",
    "dvc config core.autostage",
    "Use `dvc push`",
)


def run(
    stage: Stage,
    workspace: Path,
    on_line: Callable[[str], None],
    force: bool = False,
    timeout_s: float | None = None,
    grace: Grace | None = None,
    run_id: str = "",
) -> Outcome:
    """Bring ``stage`` up to date and return its outcome; a failed stage is an outcome, not an exception.

    Args:
        stage: The stage; those that it needs are up to date already.
        workspace: The checkout's root.
        on_line: Called with each line that DVC and the stage print.
        force: Run it even if nothing changed.
        timeout_s: Seconds after which it is stopped, with time for a checkpoint.
        grace: How much time it gets for that.
        run_id: The id of the flow run, for the stage's log lines and receipt.
    """
    began = time.monotonic()
    try:
        staleness = staleness_of(workspace, stage.name)
    except PipelineError as error:
        return Outcome(stage.name, "failed", str(error), kind=error.kind)
    if staleness.lost:
        advice = "restore it, or remove it from dvc.yaml"
        return Outcome(stage.name, "failed", f"{', '.join(staleness.lost)} is missing — {advice}", kind="artifact")
    if not staleness.why and not force:
        on_line(f"Stage '{stage.name}' didn't change, skipping")
        return outcome.succeeded(stage.name, set(), staleness, time.monotonic() - began, workspace)

    receipt = receipt_path(stage.name, root=workspace)
    before = outcome.read_json(receipt)
    transcript = outcome.Transcript(stage.name)

    def listen(line: str) -> None:
        transcript.feed(line)
        if not line.strip().startswith(_HINTS):
            on_line(line)

    repro = ("--wait-for-lock", "repro", "--single-item", "--pull")
    command = [*DVC, *repro, *(["--force"] if force else []), *stage.targets]
    try:
        code = run_watched(command, workspace, listen, environment(run_id), timeout_s, grace)
    except TimedOut as error:
        return Outcome(stage.name, "failed", str(error), time.monotonic() - began, kind="timeout")

    seconds = time.monotonic() - began
    if code == 0:
        return outcome.succeeded(stage.name, transcript.messages, staleness, seconds, workspace)
    after = outcome.read_json(receipt)
    return outcome.failed(transcript, stage.name, {} if after == before else after, code, seconds)


def run_module(workspace: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m WORDS` in ``workspace`` with the environment of a stage; return its output and exit status."""
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=workspace, env=environment(), capture_output=True, text=True, check=False)


def environment(run_id: str = "") -> dict[str, str]:
    """Return the environment of a stage: this process's, with this interpreter first on the path, and the run's id."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    run = {log.RUN: run_id} if run_id else {}
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1", **run}
