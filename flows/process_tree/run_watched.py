"""Run a command from a flow: its output line by line, a deadline, and no process left behind.

The command runs under :mod:`flows.process_tree.supervisor`, which is connected to this process by a pipe. However the
call ends (an exception, a cancellation, a deadline, SIGKILL), the pipe closes, and the supervisor stops the command
with all processes that it started.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from flows.process_tree import supervisor
from flows.process_tree.supervisor import KILL_WAIT_S, Grace

PROGRESS_EVERY_S = 5.0
_LONGEST_LINE = 2000
_LONGEST_WAIT_S = 60.0  # of one `select`, which takes no infinite number
_LINE_END = re.compile(rb"(?<=[\r\n])")  # the place behind a line end: each piece keeps its own


class TimedOut(Exception):
    """A command was stopped because it ran past its deadline."""


class Lines:
    """Splits a stream of bytes into lines, and thins the updates of progress bars.

    An update of a progress bar ends with a carriage return: one is kept every few seconds, and always the last one
    before a new line.
    """

    def __init__(self, every_s: float = PROGRESS_EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._rest = b""
        self._held = ""  # the update that was not passed on yet
        self._every_s = every_s
        self._clock = clock
        self._shown = -every_s

    def feed(self, block: bytes) -> Iterator[str]:
        """Yield the lines that ``block`` completes."""
        *pieces, self._rest = _LINE_END.split((self._rest + block).replace(b"\r\n", b"\n"))
        for piece in pieces:
            text = piece[:-1].decode("utf-8", "replace").rstrip()[:_LONGEST_LINE]
            if piece.endswith(b"\n"):
                if text or self._held:
                    yield text or self._held
                self._held = ""
            elif text:
                self._held = text
                if self._clock() - self._shown >= self._every_s:
                    self._shown = self._clock()
                    self._held = ""
                    yield text

    def close(self) -> Iterator[str]:
        """Yield the last line, if the stream ended without a line end."""
        last = self._rest.decode("utf-8", "replace").strip()[:_LONGEST_LINE] or self._held
        self._rest, self._held = b"", ""
        if last:
            yield last


def run_watched(
    command: Sequence[str],
    cwd: Path,
    on_line: Callable[[str], None],
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    grace: Grace | None = None,
) -> int:
    """Run ``command`` to its end and return its exit code; in every case all its processes are gone afterwards.

    Args:
        command: Program and arguments.
        cwd: Where it runs.
        on_line: Called with each line of its output (standard output and error together).
        env: Its whole environment; that of this process if None.
        timeout_s: Seconds after which it is stopped.
        grace: Seconds that it gets to write a checkpoint when it is stopped.

    Raises:
        TimedOut: The deadline passed; the command has been stopped.
    """
    grace = grace or Grace()
    # isolated and without site: the supervisor needs only the standard library, and so starts sooner
    supervised = [sys.executable, "-I", "-S", supervisor.__file__]
    supervised += ["--grace", str(grace.interrupt_s), str(grace.terminate_s), "--", *command]
    process = subprocess.Popen(
        supervised,
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )

    lines = Lines()
    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
    try:
        if not _read(process, lines, on_line, deadline):
            raise TimedOut(f"it was stopped after {timeout_s:g} s")
        return process.wait()
    finally:
        _close(process, lines, on_line, grace)


def _read(process: subprocess.Popen[bytes], lines: Lines, on_line: Callable[[str], None], deadline: float) -> bool:
    """Pass lines to ``on_line`` until the output ends; return False if the deadline comes first."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([descriptor], [], [], min(left, _LONGEST_WAIT_S))
        if not ready:
            continue
        block = os.read(descriptor, 1 << 16)
        for line in lines.feed(block) if block else lines.close():
            on_line(line)
        if not block:
            return True
    return False


def _close(process: subprocess.Popen[bytes], lines: Lines, on_line: Callable[[str], None], grace: Grace) -> None:
    """Close the pipe, so that the supervisor stops what still runs; wait for it; kill what a dead supervisor left."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()

    longest = grace.interrupt_s + grace.terminate_s + KILL_WAIT_S + 2.0
    try:
        if process.poll() is None:
            with contextlib.suppress(Exception):  # a failing listener must not prevent the cleanup
                _read(process, lines, on_line, time.monotonic() + longest)
        process.wait(timeout=longest)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        process.stdout.close()

    def living_in_session() -> list[int]:
        every = supervisor.processes()
        return [pid for pid, state, _, session in every if session == process.pid and state not in "ZX"]

    deadline = time.monotonic() + KILL_WAIT_S
    while (pids := living_in_session()) and time.monotonic() < deadline:
        supervisor.send(signal.SIGKILL, pids)
        time.sleep(0.01)  # a killed process takes a moment to disappear
