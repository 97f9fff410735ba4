"""A process worker that ends its runs before itself: each has time for its checkpoint, and tells the server its end.

Prefect's own worker, told to stop, kills its runs at once: their stages would still be stopped in order, but not where
the worker is a container's main process, and the server would not hear of their end. Here SIGTERM or SIGINT goes to
the runs first; a second one stops waiting for them. Where the worker was killed, its runs end by themselves and tell
the server; for one that did not come to it, this process does, or its place would stay taken.

run as: python -m flows.worker --pool POOL [what else `prefect worker start` takes]
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from uuid import UUID

from flows.process_tree.supervisor import adopt_orphans, descendants, end_with_parent, processes, send

RUNS_GRACE_S = 100.0  # a checkpoint's 20 s, the stages' 10 s, and the server's patience; compose allows 150 s
_LEFT_GRACE_S = 40.0
_POLL_S = 0.25
_LOOK_S = 1.0  # how often it is looked which runs there are
_RUN_ID = "PREFECT__FLOW_RUN_ID"  # in the environment of a run that Prefect's worker starts


class Watch:
    """A worker, and the orders to stop that came for it.

    Attributes:
        orders: How many signals asked this process to stop.
        code: The worker's exit code, once it has ended.
        runs: The ids of the flow runs that were at work when the worker was last seen.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.orders = 0
        self.code: int | None = None
        self.runs: set[str] = set()
        self._look_at = 0.0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._hear)
        # a session of its own: Ctrl-C in a terminal is for this process, which passes it on in order
        self._worker = subprocess.Popen(command, start_new_session=True, preexec_fn=end_with_parent)

    def work(self) -> int:
        """Wait for the worker, or stop it when told to; nothing of it is left afterwards. Return its exit code."""
        while self.code is None and not self.orders:
            self._turn()
        if self.code is None:
            self._end_runs()
            send(signal.SIGTERM, [self._worker.pid])
        deadline = time.monotonic() + _LEFT_GRACE_S
        while (self.code is None or descendants(os.getpid())) and time.monotonic() < deadline:
            self._turn()
        return 128 + signal.SIGTERM if self.code is None else self.code

    def _end_runs(self) -> None:
        """Send each run SIGTERM, once, those that start meanwhile too, and wait for their ends."""
        deadline = time.monotonic() + RUNS_GRACE_S
        told: set[int] = set()
        while self.orders == 1 and (runs := self._runs()) and time.monotonic() < deadline:
            for pid in runs - told:
                print(f"told to stop: the run in process {pid} may write its checkpoint first", file=sys.stderr)
            send(signal.SIGTERM, runs - told)
            told |= runs
            self._turn()

    def _runs(self) -> set[int]:
        """Return the worker's own children: each run is one."""
        return {pid for pid, state, parent, _ in processes() if parent == self._worker.pid and state not in "ZX"}

    def _turn(self) -> None:
        """Sleep a moment; collect the worker, and orphans that came to us, once they have ended."""
        if self.code is None and time.monotonic() >= self._look_at:
            self.runs = {found for pid in self._runs() if (found := _flow_run_of(pid))}
            self._look_at = time.monotonic() + _LOOK_S
        time.sleep(_POLL_S)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._worker.pid:
                    code = os.waitstatus_to_exitcode(ended[1])
                    self.code = self._worker.returncode = code if code >= 0 else 128 - code

    def _hear(self, *_: object) -> None:
        self.orders += 1


def _flow_run_of(pid: int) -> str | None:
    """Return the id of the flow run that a process is, None where it is none or the system does not tell."""
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            name, _, value = entry.decode(errors="replace").partition("=")
            if name == _RUN_ID:
                return value
    return None


def tell_lost(runs: Iterable[str]) -> None:
    """Mark those of the flow runs crashed that the server believes at work; their processes are gone."""
    import httpx  # these take seconds to import, and a worker's end seldom needs them
    from prefect.exceptions import PrefectException
    from prefect.states import Crashed

    from flows.prefect_ui import automations

    message = "its worker was killed, and it could not tell its own end"
    with automations.server("it will mark runs crashed itself when they were silent for long") as client:
        if client is None:
            return
        for run in runs:
            try:
                state = client.read_flow_run(UUID(run)).state
                if state is not None and (state.is_running() or state.is_pending()):
                    client.set_flow_run_state(UUID(run), Crashed(message=message))
            except (httpx.HTTPError, PrefectException) as error:
                print(f"run {run} could not be marked crashed: {error}", file=sys.stderr)


def main() -> int:
    """Run the worker; the words are those of `prefect worker start`."""
    adopt_orphans()
    watch = Watch([sys.executable, "-m", "prefect", "worker", "start", *sys.argv[1:]])
    code = watch.work()
    if watch.runs:
        tell_lost(sorted(watch.runs))
    return code


if __name__ == "__main__":
    sys.exit(main())
