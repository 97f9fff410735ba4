"""A command that a flow runs: its lines, its exit code, and that nothing of it survives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.process_tree.run_watched import Lines, TimedOut, run_watched
from flows.process_tree.supervisor import SURVIVORS, Grace, descendants
from tests.flows.conftest import ROOT, living_in, wait_for

QUICK = Grace(interrupt_s=5.0, terminate_s=1.0)

TRAINER = """
import pathlib, signal, subprocess, sys, time
subprocess.Popen(["sleep", "600"])
subprocess.Popen([sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '600'])"])
subprocess.Popen(["sleep", "600"], start_new_session=True)
try:
    pathlib.Path("started").touch()
    print("started", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    for i in range(200):  # more than a pipe holds
        print("saving", i, "x" * 1000, flush=True)
    time.sleep(0.5)
    pathlib.Path("checkpoint").touch()
"""
STUBBORN = """
import pathlib, signal, sys, time
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), signal.SIG_IGN)
print("started", flush=True)
time.sleep(600)
"""
PARENT = """
import pathlib, sys
from flows.process_tree.run_watched import run_watched
from flows.process_tree.supervisor import Grace
run_watched([sys.executable, "-c", sys.argv[1]], pathlib.Path(sys.argv[2]), print, grace=Grace(5.0, 1.0))
"""


def python(script: str, *words: str) -> list[str]:
    return [sys.executable, "-c", script, *words]


def feed(lines: Lines, *blocks: bytes) -> list[str]:
    return [line for block in blocks for line in lines.feed(block)] + list(lines.close())


def test_both_streams_arrive_line_by_line_with_the_exit_code(tmp_path: Path) -> None:
    heard: list[str] = []
    code = run_watched(["sh", "-c", "echo one; echo two >&2; printf three; exit 7"], tmp_path, heard.append)
    assert (heard, code) == (["one", "two", "three"], 7)


def test_a_line_arrives_while_the_command_still_runs(tmp_path: Path) -> None:
    script = (
        "import time, pathlib; print('first', flush=True)\nwhile not pathlib.Path('heard').exists(): time.sleep(.01)"
    )
    assert run_watched(python(script), tmp_path, lambda line: (tmp_path / "heard").touch(), timeout_s=30) == 0


def test_a_command_killed_by_a_signal_ends_as_a_shell_would_say(tmp_path: Path) -> None:
    assert run_watched(["sh", "-c", "kill -KILL $$"], tmp_path, print) == 128 + signal.SIGKILL


def test_a_progress_bar_is_thinned_and_its_last_state_is_kept() -> None:
    now = iter([0.0, 0.0, 1.0, 6.0, 6.0, 7.0, 8.0])
    lines = Lines(every_s=5.0, clock=lambda: next(now))
    heard = feed(lines, b"\r 0%\r 10%", b"\r 50%\r 60%\r 100%\n", b"done\n")
    assert heard[0] == " 0%"
    assert heard[-2:] == [" 100%", "done"]
    assert " 10%" not in heard


def test_lines_cut_in_the_middle_of_a_character_are_put_together() -> None:
    text = "é → ü\n".encode()
    assert feed(Lines(), text[:1], text[1:5], text[5:]) == ["é → ü"]


def test_windows_line_ends_and_empty_lines_make_no_empty_messages() -> None:
    assert feed(Lines(), b"a\r\n\r\n\nb\r\n") == ["a", "b"]


def cancel_at_start(line: str) -> None:
    if line == "started":
        raise KeyboardInterrupt


def test_past_its_deadline_a_command_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(TimedOut, match=r"stopped after 0\.5 s"):
        run_watched(["sh", "-c", "sleep 600 & sleep 600"], tmp_path, print, timeout_s=0.5, grace=Grace(0.3, 1.0))
    assert living_in(tmp_path) == []


def test_a_deadline_holds_for_a_command_that_never_stops_talking(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(TimedOut):
        run_watched(["yes"], tmp_path, lambda line: None, timeout_s=0.2, grace=QUICK)
    assert time.monotonic() - began < 10


def test_a_cancelled_command_writes_its_checkpoint_and_leaves_no_process(tmp_path: Path) -> None:
    heard: list[str] = []

    def listen(line: str) -> None:
        heard.append(line)
        cancel_at_start(line)

    with pytest.raises(KeyboardInterrupt):
        run_watched(python(TRAINER), tmp_path, listen, grace=QUICK)
    assert (tmp_path / "checkpoint").exists()
    # a line may follow on a piece of the other child's traceback, which goes to the same pipe
    assert sum(line.count("saving") for line in heard) == 200
    assert living_in(tmp_path) == []


@pytest.mark.parametrize("ignored", [("SIGINT",), ("SIGINT", "SIGTERM")])
def test_a_command_that_ignores_signals_is_stopped_all_the_same(tmp_path: Path, ignored: tuple[str, ...]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_watched(python(STUBBORN, *ignored), tmp_path, cancel_at_start, grace=Grace(0.2, 0.2))
    assert living_in(tmp_path) == []


def test_what_an_ended_command_left_in_the_background_is_stopped(tmp_path: Path) -> None:
    assert (
        run_watched(["sh", "-c", "sleep 600 & sleep 600 >/dev/null 2>&1 & exit 4"], tmp_path, print, grace=QUICK) == 4
    )
    assert living_in(tmp_path) == []


def test_a_listener_that_fails_leaves_no_process(tmp_path: Path) -> None:
    def fail(line: str) -> None:
        raise RuntimeError(line)

    with pytest.raises(RuntimeError, match="hello"):
        run_watched(["sh", "-c", "echo hello; sleep 600"], tmp_path, fail, grace=Grace(0.3, 1.0))
    assert living_in(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_when_the_flows_process_dies_the_checkpoint_is_written_and_no_process_is_left(
    tmp_path: Path, number: signal.Signals
) -> None:
    parent = subprocess.Popen(
        python(PARENT, TRAINER, str(tmp_path)),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # a shell starts what runs in its background with SIGINT ignored, these tests among it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for((tmp_path / "started").exists, "the trainer to start")
    parent.send_signal(number)
    parent.wait(timeout=30)
    wait_for(lambda: not living_in(tmp_path), "every process to end", 10)
    assert (tmp_path / "checkpoint").exists()


def test_when_the_supervisor_is_killed_the_flow_sweeps_up(tmp_path: Path) -> None:
    def kill_the_supervisor(line: str) -> None:
        for pid in descendants(os.getpid()):
            if os.getsid(pid) == pid and b"supervisor.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)

    code = run_watched(["sh", "-c", "echo up; sleep 1 >/dev/null 2>&1"], tmp_path, kill_the_supervisor, grace=QUICK)
    assert code == -signal.SIGKILL
    assert living_in(tmp_path) == []
    assert code != SURVIVORS
