"""What a launcher makes of how its ranks ended: the first cause stands in the stage's receipt and is told once."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from tasks.core import ranks
from tasks.launch import launcher
from tests.conftest import ROOT

FOLDER = Path("runs/receipts")
LOST = ("bug", "RuntimeError: connection closed by peer")
LATER = itertools.count(4_000_000_000)
STOPPED = ("preempted", "Preempted: told to stop — run again")


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (ranks.LAUNCHER, "OMP_NUM_THREADS"):  # launch() sets them: put them back behind it
        monkeypatch.setenv(name, "")
    FOLDER.mkdir(parents=True)


def leave(rank: int, status: str, error: str | None) -> None:
    """Leave a receipt, later than those that were left before."""
    name = "ingest.json" if rank == 0 else f"ingest.rank{rank}.json"
    (FOLDER / name).write_text(json.dumps({"stage": "ingest", "status": status, "error": error, "rank": rank}))
    os.utime(FOLDER / name, (now := next(LATER), now))


def receipt() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "ingest.json").read_text())
    return found


def failed(*codes: int) -> ChildFailedError:
    """Return what torchrun raises where ranks ended with these exit codes."""
    failures = {i: ProcessFailure(i, 1000 + i, code, "<N/A>") for i, code in enumerate(codes) if code}
    return ChildFailedError("tasks.ingest", failures)


def launched(monkeypatch: pytest.MonkeyPatch, *runs: Callable[[], BaseException | None]) -> int:
    """Launch, each of ``runs`` standing for what the ranks do once; return the exit code."""
    left = list(runs)

    def run_ranks(stage: str, count: int) -> None:
        if error := left.pop(0)():
            raise error

    monkeypatch.setattr(launcher, "_run_ranks", run_ranks)
    code = launcher.launch("ingest", 3)
    assert not left, "it was not started again"
    return code


Told = pytest.CaptureFixture[str]


@pytest.mark.parametrize("own", [None, LOST, ("ok", None), STOPPED], ids=["nothing", "a bug", "ok", "stopped by it"])
def test_another_ranks_error_stands_where_rank_0s_own_is_a_consequence(
    monkeypatch: pytest.MonkeyPatch, capsys: Told, own: tuple[str, str | None] | None
):
    def run() -> BaseException:
        leave(2, "network", "NetworkError: no answer — run again later")
        leave(1, "config", "ConfigError: another, which came later")
        if own:
            leave(0, *own)
        return failed(1 if own else -signal.SIGTERM, 1, 1)

    assert launched(monkeypatch, run) == 1
    assert capsys.readouterr().err.splitlines() == [
        "[ingest] error: rank 2: no answer — run again later",
        "[ingest] error: rank 1: another, which came later",
    ]
    found = receipt()
    assert (found["status"], found["rank"]) == ("network", 2)
    assert found["error"] == "NetworkError: no answer — run again later"


def test_an_expected_error_of_rank_0_stands_and_others_are_told_beside_it(
    monkeypatch: pytest.MonkeyPatch, capsys: Told
):
    def run() -> BaseException:
        leave(1, "storage", "StorageError: the disk is full")
        leave(2, "data", "DataError: no rows")
        leave(0, "data", "DataError: no rows")
        return failed(1, 1, 1)

    assert launched(monkeypatch, run) == 1
    assert capsys.readouterr().err == "[ingest] error: rank 1: the disk is full\n", "what rank 0 told is told once"
    assert (receipt()["status"], receipt()["rank"]) == ("data", 0)


def test_what_all_others_found_is_told_once(monkeypatch: pytest.MonkeyPatch, capsys: Told):
    def run() -> BaseException:
        for rank in (2, 1):
            leave(rank, "data", "DataError: no rows")
        return failed(-signal.SIGTERM, 1, 1)

    assert launched(monkeypatch, run) == 1
    assert capsys.readouterr().err == "[ingest] error: rank 2: no rows\n"


@pytest.mark.parametrize(("status", "code"), [("gate", 3), ("data", 1)])
def test_the_exit_code_is_that_of_the_cause(monkeypatch: pytest.MonkeyPatch, status: str, code: int):
    def run() -> BaseException:
        leave(1, status, "Some: words")
        return failed(1, code, 0)

    assert launched(monkeypatch, run) == code


def test_a_rank_that_stopped_because_another_failed_is_no_preemption(monkeypatch: pytest.MonkeyPatch, capsys: Told):
    def bug_on_rank_0() -> BaseException:
        leave(0, "bug", "ZeroDivisionError: ours")
        leave(1, *STOPPED)
        return failed(1, 75, 0)

    assert launched(monkeypatch, bug_on_rank_0) == 1
    assert receipt()["status"] == "bug"

    def bug_on_rank_1() -> BaseException:
        leave(1, "bug", "ZeroDivisionError: ours")
        leave(0, *STOPPED)
        return failed(75, 1, 0)

    assert launched(monkeypatch, bug_on_rank_1) == 1
    assert (receipt()["status"], receipt()["error"]) == ("bug", "ZeroDivisionError: ours")
    assert capsys.readouterr().err == "", "a bug's traceback told of it"


@pytest.mark.parametrize("own", [None, ("ok", None)])
def test_a_bug_of_another_rank_stands_where_rank_0_met_none(
    monkeypatch: pytest.MonkeyPatch, capsys: Told, own: tuple[str, str | None] | None
):
    def run() -> BaseException:
        leave(1, "bug", "ZeroDivisionError: ours")
        if own:
            leave(0, *own)
        return failed(0, 1, 0)

    assert launched(monkeypatch, run) == 1
    assert (receipt()["status"], receipt()["error"], receipt()["rank"]) == ("bug", "ZeroDivisionError: ours", 1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [failed(75, 75, 75), SignalException("asked", signal.SIGTERM)])
def test_ranks_that_were_asked_to_stop_have_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: Told, error: BaseException
):
    def run() -> BaseException:
        for rank in (1, 2, 0):
            leave(rank, *STOPPED)
        return error

    assert launched(monkeypatch, run) == 75
    assert receipt()["status"] == "preempted"
    assert capsys.readouterr().err == ""


def test_rank_0_that_hung_and_was_killed_for_another_ranks_error_is_not_started_again(monkeypatch: pytest.MonkeyPatch):
    def run() -> BaseException:
        leave(1, "config", "ConfigError: memory ran out on a single pair")
        return failed(-signal.SIGKILL, 1, 0)

    assert launched(monkeypatch, run) == 1
    assert receipt()["status"] == "config"


def test_a_rank_that_was_killed_is_started_again_whatever_the_others_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: Told
):
    def run() -> BaseException:
        leave(2, *STOPPED)
        leave(0, *LOST)
        return failed(1, -signal.SIGKILL, 75)

    def again() -> None:
        assert sorted(path.name for path in FOLDER.iterdir()) == ["ingest.json"], "each start begins anew"
        leave(0, "ok", None)

    assert launched(monkeypatch, run, again) == 0
    assert "rank 1 was killed by signal 9: starting again" in capsys.readouterr().err


def test_receipts_of_an_earlier_run_say_nothing_of_this_one(monkeypatch: pytest.MonkeyPatch, capsys: Told):
    leave(1, "network", "NetworkError: long ago")
    leave(0, "network", "NetworkError: long ago")  # as late as it may be: a network disk has a clock of its own
    assert launched(monkeypatch, lambda: failed(1, 1, 1)) == 1
    assert "the ranks ended without a receipt" in capsys.readouterr().err


def test_a_disk_whose_clock_is_behind_hides_nothing(monkeypatch: pytest.MonkeyPatch, capsys: Told):
    def run() -> BaseException:
        leave(1, "network", "NetworkError: no answer")
        os.utime(FOLDER / "ingest.rank1.json", (1, 1))
        return failed(1, 1, 1)

    assert launched(monkeypatch, run) == 1
    assert capsys.readouterr().err == "[ingest] error: rank 1: no answer\n"
    assert receipt()["status"] == "network"


def test_a_receipt_that_cannot_be_read_does_not_end_the_launcher(monkeypatch: pytest.MonkeyPatch, capsys: Told):
    def run() -> BaseException:
        (FOLDER / "ingest.rank1.json").write_text("{torn")
        (FOLDER / "ingest.rank2.json").write_text("[]")
        return failed(1, 1, 1)

    assert launched(monkeypatch, run) == 1
    assert "the ranks ended without a receipt" in capsys.readouterr().err


RANKS = """
import dataclasses, os, time
from datetime import timedelta
import torch.distributed as dist
from tasks.core import ranks
from tasks.launch import launcher
from tasks.telemetry import log
from tasks.core.errors import DataError, NetworkError
from tasks.launch.stage import door

@dataclasses.dataclass(frozen=True)
class Owner:
    how: str = ""

with door("ingest", Owner) as config:
    if config.how == "alike":
        time.sleep(0.3 * ranks.rank())
        raise DataError("no rows", "give some")
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    dist.barrier()
    if ranks.rank() == 1:
        log.get_logger("tasks.dpo.capacity.budget").warning("memory ran out")
        raise NetworkError("the store does not answer", "run again")
    dist.barrier()
"""
PROGRAM = "import sys; from tasks.launch import launcher; sys.exit(launcher.launch('ingest', 2))"


def two_ranks(root: Path, how: str, *words: str) -> tuple[int, list[str]]:
    """Run two ranks of a stage of ours for real; return exit code and the lines that tell of a stage."""
    (root / "params.yaml").write_text(f"ingest: {{how: {how}}}\n")
    (root / "tasks").mkdir(exist_ok=True)
    (root / "tasks/__init__.py").write_text(f"__path__.append({str(ROOT / 'tasks')!r})\n")
    (root / "tasks/ingest.py").write_text(RANKS)
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", ranks.LAUNCHER)}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, *(words or ("-c", PROGRAM))]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=120)
    return done.returncode, [line for line in done.stderr.splitlines() if line.startswith("[ingest]")]


def test_an_error_of_one_real_rank_is_the_stages(tmp_path: Path):
    code, told = two_ranks(tmp_path, "apart")
    assert code == 1
    assert told == [
        "[ingest] rank 1: memory ran out",
        "[ingest] error: rank 1: the store does not answer — run again",
    ]
    found = receipt()
    assert (found["status"], found["error"]) == ("network", "NetworkError: the store does not answer — run again")
    assert (FOLDER / "ingest.rank1.json").is_file()


@pytest.mark.e2e
def test_an_error_of_all_real_ranks_is_told_once(tmp_path: Path):
    code, told = two_ranks(tmp_path, "alike")
    assert code == 1
    assert len(told) == 1
    assert told[0].endswith("no rows — give some")
    assert receipt()["status"] == "data"


@pytest.mark.e2e
def test_under_another_launcher_the_rank_itself_tells(tmp_path: Path):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "tasks.ingest"]
    code, told = two_ranks(tmp_path, "apart", *torchrun)
    assert code == 1
    assert "[ingest] error: rank 1: the store does not answer — run again" in told
    assert json.loads((FOLDER / "ingest.rank1.json").read_text())["status"] == "network"
