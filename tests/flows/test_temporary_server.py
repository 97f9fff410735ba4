"""A run without a server of one's own: Prefect starts a temporary one, which ends with the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.process_tree.supervisor import descendants
from tests.flows.conftest import ROOT, living_in, set_param, tell, wait_for

pytestmark = pytest.mark.e2e


def start(project: Path) -> tuple[subprocess.Popen[bytes], Path]:
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    env["PREFECT_HOME"] = str(project.parent / "prefect")
    log = project.parent / "log"
    command = [sys.executable, "-m", "flows.pipeline", "--workspace", str(project)]
    with log.open("wb") as stream:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=stream, stderr=subprocess.STDOUT), log


def test_the_flow_runs_from_the_command_line_and_says_what_happened(project: Path) -> None:
    set_param(project, "last", 2)
    process, log = start(project)
    assert process.wait(timeout=300) == 0
    assert "Completed('2 unchanged, 1 ran')" in log.read_text()


def test_a_failed_run_ends_with_exit_code_1(project: Path) -> None:
    set_param(project, "last", 2)
    tell(project, "last", "fail data")
    process, log = start(project)
    assert process.wait(timeout=300) == 1
    assert "stage `last` failed (data): SomeError: the data is in the way" in log.read_text()


def test_a_run_that_is_told_to_stop_takes_its_server_along(project: Path) -> None:
    set_param(project, "first", 2)
    tell(project, "first", "train")
    process, log = start(project)
    wait_for(lambda: "training" in log.read_text(), "the stage to start", 300)
    started = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    wait_for(lambda: not living_in(project), "every process to end", 30)
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []
    assert (project / "checkpoint").exists()
