"""Deployments on a real server with a real worker: schedules, events, collisions, cancellation, crashes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.process_tree.supervisor import descendants, processes
from tests.flows.conftest import ROOT, living_in, set_param, tell, wait_for
from tests.flows.prefect_server import PrefectServer, deploy, running, working

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def box(built_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PrefectServer, Path]]:
    """A server with the deployments of infra/prefect.yaml, for one checkout; arrivals are waited for 10 s."""
    folder = tmp_path_factory.mktemp("box")
    shutil.copytree(built_project.parent, folder / "work", symlinks=True)
    with running(folder / "prefect") as server:
        deploy(server, folder / "work" / "project", **{"within: 300": "within: 10"})
        yield server, folder / "work" / "project"


@pytest.fixture
def worker(box: tuple[PrefectServer, Path]) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the box."""
    with working(box[0]) as process:
        yield process


def test_setting_up_twice_changes_nothing(box: tuple[PrefectServer, Path]) -> None:
    server, _ = box
    names = sorted((one["entrypoint"], one["name"]) for one in server.post("/deployments/filter"))
    assert names == [
        ("flows.evaluate_only.evaluate_only", "by-hand"),
        ("flows.pipeline.pipeline", "nightly"),
        ("flows.plan.plan", "by-hand"),
        ("flows.promote.promote", "by-hand"),
        ("flows.retrain.retrain", "on-arrival"),
        ("flows.retrain.retrain", "poll"),
        ("flows.rollback.rollback", "by-hand"),
    ]
    names = sorted(one["name"] for one in server.post("/automations/filter"))
    assert names == ["dpo: a run fell silent", "retrain when preference data arrived"]
    limits = server.post("/v2/concurrency_limits/filter")
    assert [one["limit"] for one in limits if one["name"] == "gpu"] == [1]


def test_the_forms_describe_every_parameter(box: tuple[PrefectServer, Path]) -> None:
    for deployment in box[0].post("/deployments/filter"):
        properties = deployment["parameter_openapi_schema"]["properties"]
        assert [name for name, one in properties.items() if not one.get("description")] == [], deployment["entrypoint"]


def test_a_cron_deployment_gets_scheduled_runs(box: tuple[PrefectServer, Path]) -> None:
    server, _ = box
    wait_for(lambda: server.runs("pipeline/nightly"), "scheduled runs", 90)
    assert {run["state_type"] for run in server.runs("pipeline/nightly")} == {"SCHEDULED"}
    assert all(run["expected_start_time"][11:16] == "02:00" for run in server.runs("pipeline/nightly"))


def test_a_worker_runs_a_deployment_from_start_to_end(box: tuple[PrefectServer, Path], worker: object) -> None:
    server, project = box
    set_param(project, "middle", 7)
    planned = server.wait(server.run("plan/by-hand"))
    assert planned["message"] == "2 of 3 stages would run: middle, last"
    run = server.run("pipeline/nightly")
    assert server.wait(run)["message"] == "1 unchanged, 2 ran"
    assert server.artifacts(run)["pipeline"]["type"] == "table"
    again = server.run("pipeline/nightly")
    assert server.wait(again)["message"] == "3 unchanged"


def test_events_in_a_row_start_one_run_with_parameters_of_the_right_type(box: tuple[PrefectServer, Path]) -> None:
    server, _ = box
    for rows in ("40", "50", "60"):
        command = [sys.executable, "-m", "flows.events", "--source", "s3://bucket/feedback", "--rows", rows]
        subprocess.run(command, cwd=ROOT, env=server.env, check=True, timeout=60)
    wait_for(lambda: server.runs("retrain/on-arrival"), "the run", 120)
    with pytest.raises(AssertionError):
        wait_for(lambda: len(server.runs("retrain/on-arrival")) > 1, "a second run, which must not come", 12)
    (run,) = server.runs("retrain/on-arrival")
    assert run["parameters"] == {"minimum_new_pairs": 100, "announced_rows": 60}


def test_a_second_run_of_the_same_deployment_is_cancelled(box: tuple[PrefectServer, Path], worker: object) -> None:
    server, project = box
    set_param(project, "first", 31)
    tell(project, "first", "train")
    first = server.run("pipeline/nightly")
    wait_for(lambda: is_training(project), "the stage to start", 120)
    second = server.wait(server.run("pipeline/nightly"))
    assert (second["type"], "concurrency limit" in second["message"].lower()) == ("CANCELLED", True)
    server.cancel(first)
    assert server.wait(first)["type"] == "CANCELLED"
    wait_for(lambda: not living_in(project), "every process to end", 30)
    assert (project / "checkpoint").exists(), "a cancelled run had time for its checkpoint"
    (project / "checkpoint").unlink()


def is_training(project: Path) -> bool:
    return any("sleep" in words for words in living_in(project))


@pytest.mark.parametrize(("order", "value"), [("SIGTERM", 41), ("SIGKILL", 42)])
def test_a_worker_that_ends_leaves_no_process_and_the_next_run_goes_on(
    box: tuple[PrefectServer, Path], order: str, value: int
) -> None:
    server, project = box
    set_param(project, "first", value)
    tell(project, "first", "train")
    with working(server) as process:
        run = server.run("pipeline/nightly")
        wait_for(lambda: is_training(project), "the stage to start", 120)
        if order == "SIGTERM":
            process.terminate()
        else:
            os.kill(prefect_worker(process), signal.SIGKILL)
        process.wait(timeout=60)
        assert not living_in(project), "who waits for the worker's end (a container does) finds nothing left"
    assert server.wait(run, 10)["type"] == "CRASHED", "or its place would stay taken"
    goes_on(server, project)


def test_a_run_that_cannot_report_its_end_is_reported_by_the_watch(box: tuple[PrefectServer, Path]) -> None:
    """A run that ends with its worker does not always reach the server; it was at work there for ten minutes more."""
    server, project = box
    set_param(project, "first", 51)
    tell(project, "first", "train")
    with working(server) as process:
        run = server.run("pipeline/nightly")
        wait_for(lambda: is_training(project), "the stage to start", 120)
        for pid in descendants(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait(timeout=60)
    state = server.wait(run, 10)
    assert (state["type"], state["message"]) == ("CRASHED", "its worker was killed, and it could not report its end")
    goes_on(server, project, has_checkpoint=False)


def test_a_run_whose_machine_is_lost_is_marked_crashed(box: tuple[PrefectServer, Path]) -> None:
    server, project = box
    command = [sys.executable, "-m", "flows.liveness", "--silent-seconds", "40"]
    subprocess.run(command, env=server.env, check=True, timeout=60)
    set_param(project, "first", 61)
    tell(project, "first", "train")
    with working(server) as process:
        run = server.run("pipeline/nightly")
        wait_for(lambda: is_training(project), "the stage to start", 120)
        for pid in [process.pid, *descendants(process.pid)]:
            os.kill(pid, signal.SIGKILL)
    assert "no event of it for 40 s" in server.wait(run, 150)["message"]
    goes_on(server, project, has_checkpoint=False)


def test_a_server_that_crashes_costs_no_checkpoint_and_leaves_no_process(box: tuple[PrefectServer, Path]) -> None:
    server, project = box
    set_param(project, "first", 71)
    tell(project, "first", "train")
    with working(server):
        run = server.run("pipeline/nightly")
        wait_for(lambda: is_training(project), "the stage to start", 120)
        server.kill()
        server.start()
        assert is_training(project), "a server that comes back finds the run at work"
    assert not living_in(project)
    assert server.wait(run, 10)["type"] == "CRASHED"
    goes_on(server, project)


def prefect_worker(watch: subprocess.Popen[bytes]) -> int:
    """Return Prefect's own worker under the one that watches it."""
    (pid,) = (pid for pid, _, parent, _ in processes() if parent == watch.pid)
    return pid


def goes_on(server: PrefectServer, project: Path, has_checkpoint: bool = True) -> None:
    """Check that a stopped run left its checkpoint, and that the next one, with a sound stage, ends it."""
    assert (project / "checkpoint").exists() is has_checkpoint
    (project / "checkpoint").unlink(missing_ok=True)
    (project / "mood" / "first").unlink()
    with working(server):
        assert server.wait(server.run("pipeline/nightly"))["message"] == "3 ran"
