"""The watch over a worker, which here kills its run when it is told to stop, as Prefect's does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.process_tree.supervisor import descendants, send
from tests.flows.conftest import ROOT, wait_for

WATCH = """
import pathlib, sys
from flows.process_tree.supervisor import adopt_orphans
from flows.worker import Watch
adopt_orphans()
watch = Watch([sys.executable, *sys.argv[1:]])
code = watch.work()
pathlib.Path("runs").write_text(" ".join(watch.runs))
sys.exit(code)
"""
WORKER = """
import os, pathlib, signal, subprocess, sys
run = subprocess.Popen([sys.executable, *sys.argv[1:]], env={**os.environ, "PREFECT__FLOW_RUN_ID": "run-1"})
def stop(*_):
    pathlib.Path("told").write_text(f"run had ended: {run.poll() is not None}")
    run.kill()
    sys.exit(7)
signal.signal(signal.SIGTERM, stop)
while True:
    signal.pause()
"""
RUN = """
import pathlib, signal, sys, time
def stop(*_):
    time.sleep(float(sys.argv[1]))
    pathlib.Path("checkpoint").touch()
    sys.exit()
signal.signal(signal.SIGTERM, stop)
pathlib.Path("running").touch()
while True:
    signal.pause()
"""


@pytest.fixture
def watch(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A watch over a worker with one run, which takes so many seconds for its checkpoint."""
    for name, text in {"watch.py": WATCH, "worker.py": WORKER, "run.py": RUN}.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "watch.py", "worker.py", "run.py", str(request.param)]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    wait_for((tmp_path / "running").exists, "the run")
    yield process
    send(signal.SIGKILL, descendants(process.pid))
    process.kill()
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("watch", [0.5], indirect=True)
def test_runs_end_before_their_worker(watch: subprocess.Popen[bytes], tmp_path: Path, number: signal.Signals) -> None:
    watch.send_signal(number)
    assert watch.wait(timeout=30) == 7, "the worker's own exit code"
    assert (tmp_path / "checkpoint").exists()
    assert (tmp_path / "told").read_text() == "run had ended: True"


@pytest.mark.parametrize("watch", [600], indirect=True)
def test_a_second_signal_does_not_wait_for_the_run(watch: subprocess.Popen[bytes], tmp_path: Path) -> None:
    watch.terminate()
    time.sleep(0.6)
    assert watch.poll() is None
    watch.terminate()
    assert watch.wait(timeout=30) == 7
    assert (tmp_path / "told").read_text() == "run had ended: False"


@pytest.mark.parametrize("watch", [0], indirect=True)
def test_a_worker_that_is_killed_is_told_by_its_code_once_nothing_is_left(
    watch: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    (worker,) = [pid for pid in descendants(watch.pid) if b"worker.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    (run,) = [pid for pid in descendants(watch.pid) if pid != worker]
    os.kill(worker, signal.SIGKILL)
    time.sleep(0.6)
    assert watch.poll() is None, "it waits for the run, which came to it"
    os.kill(run, signal.SIGTERM)
    assert watch.wait(timeout=30) == 128 + signal.SIGKILL
    assert (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("watch", [0], indirect=True)
def test_a_run_that_is_killed_shortly_before_its_worker_is_one_that_could_not_report_its_end(
    watch: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    (worker,) = [pid for pid in descendants(watch.pid) if b"worker.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    (run,) = [pid for pid in descendants(watch.pid) if pid != worker]
    time.sleep(1.5)  # the watch has listed it
    os.kill(run, signal.SIGKILL)
    time.sleep(1.5)  # and looked again
    os.kill(worker, signal.SIGKILL)
    assert watch.wait(timeout=30) == 128 + signal.SIGKILL
    assert (tmp_path / "runs").read_text() == "run-1"
