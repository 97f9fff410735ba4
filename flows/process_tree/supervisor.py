"""Runs one command and makes sure that none of its processes survives, even after a cancellation or a time-out.

    supervisor.py [--grace INTERRUPT TERMINATE] -- dvc repro …

The parent has the other end of this process's standard input. When it closes (the parent closed it, crashed, or was
killed with SIGKILL), or when a signal arrives, the command is stopped: SIGINT to its group, time to write a checkpoint,
SIGTERM to all its descendants, SIGKILL. Orphans become children of this process (Linux's PR_SET_CHILD_SUBREAPER), so
workers in other sessions, as torchrun starts them, are stopped, too. The command's output is passed on, or dropped once
nobody reads it, so a broken pipe never costs a checkpoint. Standard library only: it starts in a few hundredths of a
second.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

KILL_WAIT_S = 5.0
SURVIVORS = 70  # the exit code if a process could not be killed
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STDIN, _STDOUT = 0, 1


@dataclasses.dataclass(frozen=True)
class Grace:
    """Seconds that a command gets to end: after SIGINT (for its checkpoint), and after SIGTERM."""

    interrupt_s: float = 20.0
    terminate_s: float = 5.0


class Supervisor:
    """One command, its output, and its descendants."""

    def __init__(self, command: list[str], grace: Grace) -> None:
        self._grace = grace
        self._is_stopping = False
        self._code: int | None = None

        # a signal writes to a pipe, so that it ends the wait for output
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask_to_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

        # the command, in a process group of its own
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        self._output: int | None = read_end
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=write_end, stderr=subprocess.STDOUT, process_group=0
        )
        os.close(write_end)
        child.returncode = 0  # reaped together with the orphans, not by subprocess
        self._pid = child.pid

    def run(self) -> int:
        """Wait for the command, or for a request to stop; return the exit code as a shell does."""
        while self._code is None and not self._is_stopping:
            self._poll(watch_parent=True)

        if self._is_stopping and self._code is None:
            self._interrupt_group(self._grace.interrupt_s)
        self._wait_until_alone(self._grace.terminate_s, signal.SIGTERM)
        self._wait_until_alone(KILL_WAIT_S, signal.SIGKILL)

        while self._copy_output():
            pass
        if left := descendants(os.getpid()):
            print(f"processes survive SIGKILL: {left}", file=sys.stderr)
            return SURVIVORS
        return 128 + signal.SIGKILL if self._code is None else self._code

    def _interrupt_group(self, seconds: float) -> None:
        """Send one SIGINT to the command's group, as a terminal does, and wait until the group is empty.

        Only one, and only to the group: a second SIGINT may mean "stop now", and a launcher signals its workers itself.
        """
        deadline = time.monotonic() + seconds
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGINT)
            while time.monotonic() < deadline:
                self._poll(watch_parent=False)
                os.killpg(self._pid, 0)

    def _wait_until_alone(self, seconds: float, number: signal.Signals) -> None:
        """Send ``number`` once to each descendant, present or new, and wait for all to end."""
        deadline = time.monotonic() + seconds
        signalled: set[int] = set()
        while (living := descendants(os.getpid())) and time.monotonic() < deadline:
            send(number, set(living) - signalled)
            signalled.update(living)
            self._poll(watch_parent=False)

    def _poll(self, watch_parent: bool) -> None:
        """Wait a moment for output, an ended child or the parent's end, and handle it."""
        sources = [self._wake_read, *([self._output] if self._output is not None else [])]
        if watch_parent:
            sources.append(_STDIN)
        ready, _, _ = select.select(sources, [], [], 0.2)

        if self._wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
        if self._output in ready:
            self._copy_output()
        if _STDIN in ready and not os.read(_STDIN, 4096):
            self._is_stopping = True
        self._code = dict(reap()).get(self._pid, self._code)

    def _copy_output(self) -> bool:
        """Copy a block of the command's output to stdout, or drop it if nobody reads; return whether there was one."""
        if self._output is None:
            return False
        try:
            block = os.read(self._output, 1 << 16)
        except BlockingIOError:
            return False
        if not block:
            os.close(self._output)
            self._output = None
            return False
        with contextlib.suppress(OSError):
            while block:
                block = block[os.write(_STDOUT, block) :]
        return True

    def _ask_to_stop(self, *_: object) -> None:
        self._is_stopping = True


def descendants(root: int) -> list[int]:
    """Return the living (not zombie) descendants of process ``root``; none without /proc."""
    children: dict[int, list[int]] = {}
    dead: set[int] = set()
    for pid, state, parent, _ in processes():
        children.setdefault(parent, []).append(pid)
        if state in "ZX":
            dead.add(pid)

    below, to_visit = [], [root]
    while to_visit:
        new = children.get(to_visit.pop(), [])
        below += new
        to_visit += new
    return sorted(set(below) - dead)


def processes() -> Iterable[tuple[int, str, int, int]]:
    """Yield (pid, state, parent, session) of every process in /proc."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # the second field is the name in brackets, which may contain spaces and brackets
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
            yield int(entry.parent.name), fields[0], int(fields[1]), int(fields[3])


def reap() -> Iterator[tuple[int, int]]:
    """Collect every ended child, so that none stays a zombie; yield its process id, and its exit code as a shell's."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            code = os.waitstatus_to_exitcode(ended[1])
            yield ended[0], code if code >= 0 else 128 - code


def end_with_parent() -> None:
    """Make the system send SIGTERM to this process when its parent ends, however it ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def adopt_orphans() -> None:
    """Make this process the parent of its orphaned descendants (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    """Send a signal to the processes that still exist."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def main() -> int:
    """Parse the command line, run the command and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grace", nargs=2, type=float, default=[Grace.interrupt_s, Grace.terminate_s])
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    adopt_orphans()
    return Supervisor(arguments.command, Grace(*arguments.grace)).run()


if __name__ == "__main__":
    sys.exit(main())
