"""A process worker that ends its runs before itself: each can write its checkpoint and report its end to the server.

When Prefect's worker is stopped, it kills its runs at once: their end is not reported to the server, and if the worker
is the main process of a container, their stages get no time for a checkpoint. Here SIGTERM or SIGINT goes to the runs
first; a second signal stops the waiting. If the worker is killed, its runs end by themselves and report that; for a run
that could not, this process reports it, or the run would keep its slot.

run as: python -m flows.worker --pool POOL [other arguments of `prefect worker start`]
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

from flows.process_tree.supervisor import adopt_orphans, descendants, end_with_parent, processes, reap, send

RUNS_GRACE_S = 100.0  # 20 s for a checkpoint, 10 s to stop the stage, the rest for the server; compose allows 150 s
_LEFT_GRACE_S = 40.0
_POLL_S = 0.25
_LOOK_S = 1.0  # how often the list of runs is updated
_REMEMBERED_S = 10.0  # how long a run counts whose process is gone: its worker may die before it reports that
_RUN_ID = "PREFECT__FLOW_RUN_ID"  # in the environment of a run that Prefect's worker starts


class Watch:
    """A worker under supervision.

    Attributes:
        signals: How many signals asked this process to stop.
        code: The worker's exit code, once it has ended.
        runs: The ids of the flow runs that were running of late, and when each was last seen.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.signals = 0
        self.code: int | None = None
        self.runs: dict[str, float] = {}
        self._list_at = 0.0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._count_signal)
        # a new session: Ctrl-C in a terminal reaches only this process, which ends runs and worker in order
        self._worker = subprocess.Popen(command, start_new_session=True, preexec_fn=end_with_parent)

    def work(self) -> int:
        """Wait for the worker, or stop it after a signal; return its exit code once all its processes are gone."""
        while self.code is None and not self.signals:
            self._poll()

        if self.code is None:
            self._end_runs()
            send(signal.SIGTERM, [self._worker.pid])
        deadline = time.monotonic() + _LEFT_GRACE_S
        while (self.code is None or descendants(os.getpid())) and time.monotonic() < deadline:
            self._poll()
        return 128 + signal.SIGTERM if self.code is None else self.code

    def _end_runs(self) -> None:
        """Send SIGTERM once to each run, including runs that start meanwhile, and wait for all to end."""
        deadline = time.monotonic() + RUNS_GRACE_S
        signalled: set[int] = set()
        while self.signals == 1 and (runs := self._runs()) and time.monotonic() < deadline:
            for pid in runs - signalled:
                print(f"stopping: the run in process {pid} may write its checkpoint first", file=sys.stderr)
            send(signal.SIGTERM, runs - signalled)
            signalled |= runs
            self._poll()

    def _runs(self) -> set[int]:
        """Return the process ids of the runs, which are the children of the worker."""
        return {pid for pid, state, parent, _ in processes() if parent == self._worker.pid and state not in "ZX"}

    def _poll(self) -> None:
        """Sleep a moment, update the list of runs, and reap the worker and adopted orphans that have ended."""
        if self.code is None and (now := time.monotonic()) >= self._list_at:
            self.runs |= {run: now for pid in self._runs() if (run := _flow_run_of(pid))}
            self.runs = {run: seen for run, seen in self.runs.items() if seen > now - _REMEMBERED_S}
            self._list_at = now + _LOOK_S
        time.sleep(_POLL_S)
        if (code := dict(reap()).get(self._worker.pid)) is not None:
            self.code = self._worker.returncode = code

    def _count_signal(self, *_: object) -> None:
        self.signals += 1


def _flow_run_of(pid: int) -> str | None:
    """Return the id of the flow run in a process; None if it is none, or the system does not say."""
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            name, _, value = entry.decode(errors="replace").partition("=")
            if name == _RUN_ID:
                return value
    return None


def report_lost(runs: Iterable[str]) -> None:
    """Mark the flow runs crashed that are still running for the server, since their processes are gone."""
    import httpx  # these imports take seconds, and the end of a worker seldom needs them
    from prefect.exceptions import PrefectException
    from prefect.states import Crashed

    from flows.prefect_ui import automations

    message = "its worker was killed, and it could not report its end"

    with automations.server("it marks runs crashed itself after their heartbeats stop") as client:
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
    """Run the worker with the arguments of `prefect worker start`."""
    adopt_orphans()
    watch = Watch([sys.executable, "-m", "prefect", "worker", "start", *sys.argv[1:]])
    code = watch.work()
    if watch.runs:
        report_lost(sorted(watch.runs))
    return code


if __name__ == "__main__":
    sys.exit(main())
