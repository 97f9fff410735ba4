"""Ends runs of a worker again and again, at named stages and at random moments: stopped, killed, cancelled."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from flows.process_tree.supervisor import descendants, send
from tests.flows.conftest import living_in, wait_for
from tests.flows.prefect_server import FINAL, PrefectServer, deploy, working

STAGES = ("ingest", "encode", "reference", "train", "respond", "winrate", "report", "register")
ENDINGS = ("cancel", "SIGTERM", "SIGKILL")
STEPS_DONE = r"Task run 'train' - (train: .*pairs/s|\[train\] going on after)"
RESUMED = re.compile(r"going on after step \d+ of \d+")
EXPECTED = {"cancel": {"CANCELLED"}, "SIGTERM": {"CRASHED"}, "SIGKILL": {"CRASHED"}}


@dataclasses.dataclass(frozen=True)
class Kill:
    """One way to end a run.

    Attributes:
        ending: ``cancel`` (a person, on the server), ``SIGTERM`` (to the worker) or ``SIGKILL`` (to the run's process).
        stage: While which stage, or the first one after it where that is done; the first that runs when None.
        wait_s: How many seconds after that stage started, or said ``after``.
        after: What the stage has to say first, as a pattern.
    """

    ending: str
    stage: str | None
    wait_s: float
    after: str = ""


def at_each_stage() -> Iterator[Kill]:
    """Yield every ending at every stage, soon after it began; in training, once steps are behind it."""
    chance = random.Random(0)
    for stage, ending in itertools.product(STAGES, ENDINGS):
        yield Kill(ending, stage, chance.uniform(0, 0.3), STEPS_DONE if stage == "train" else "")


def at_random_moments(count: int, longest_s: float) -> Iterator[Kill]:
    """Yield ``count`` endings, each within ``longest_s`` seconds of the first stage that runs."""
    chance = random.Random(1)
    for _ in range(count):
        yield Kill(chance.choice(ENDINGS), None, chance.uniform(0, longest_s))


def run_killed(folder: Path, server: PrefectServer, kills: Iterable[Kill]) -> list[tuple[str, str]]:
    """Run the pipeline of a checkout to its end behind runs that were ended; nothing of them survives.

    Returns:
        The stage and the ending of each run that was ended; a run that was through before its moment is not among them.
    """
    deploy(server, folder)
    for name in ("pipeline/nightly", "retrain/poll"):
        server.pause(name)  # every quarter of an hour is sooner than the last of many kills
    ended = [(stage, kill.ending) for kill in kills if (stage := _end_one(folder, server, kill))]
    with working(server):
        last = server.wait(server.run("pipeline/nightly"), 600)
    assert last["type"] == "COMPLETED", last["message"]
    return ended


def _end_one(folder: Path, server: PrefectServer, kill: Kill) -> str:
    """Start a run and end it; return the stage that it ended in, nothing where it was done before."""
    log = server.home / "worker.log"
    before = log.stat().st_size if log.exists() else 0
    names = STAGES[STAGES.index(kill.stage) :] if kill.stage else ("base", *STAGES)
    awaited = re.compile(rf"Running stage '({'|'.join(names)})'")
    with working(server) as worker:
        run = server.run("pipeline/nightly")
        for said in (awaited, re.compile(kill.after)):
            wait_for(functools.partial(_is_over_or_said, server, run, log, before, said), said.pattern, 300)
        time.sleep(kill.wait_s)
        if _is_over(server, run):
            assert server.state(run)["type"] == "COMPLETED", server.state(run)
            return ""
        _end(server, run, worker, kill.ending)
        told = server.wait(run, 60)["type"]
        wait_for(lambda: not living_in(folder), f"every process to end after {kill}", 30)
    assert told in {*EXPECTED[kill.ending], "COMPLETED"}, (kill, told)  # it may have been through just then
    return str(awaited.findall(_tail(log, before))[-1]) if told != "COMPLETED" else ""


def _end(server: PrefectServer, run: str, worker: subprocess.Popen[bytes], ending: str) -> None:
    if ending == "cancel":
        server.cancel(run)
    elif ending == "SIGTERM":
        worker.terminate()
        worker.wait(timeout=60)
    else:
        send(signal.SIGKILL, engines(worker.pid))


def engines(worker: int) -> list[int]:
    """Return the processes under a worker that are runs."""
    return [pid for pid in descendants(worker) if b"prefect.engine" in _words(pid)]


def _words(pid: int) -> list[bytes]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []


def _is_over(server: PrefectServer, run: str) -> bool:
    return server.state(run)["type"] in FINAL


def _is_over_or_said(server: PrefectServer, run: str, log: Path, start: int, said: re.Pattern[str]) -> bool:
    return _is_over(server, run) or bool(said.search(_tail(log, start)))


def _tail(log: Path, start: int) -> str:
    with log.open("rb") as stream:
        stream.seek(start)
        return stream.read().decode(errors="replace")
