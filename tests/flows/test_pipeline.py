"""The flow on a real Prefect server: states, retries, the table, and a flow that is told to stop or killed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import TaskRunSort

from flows.dvc_project.graph import stages_in_order
from flows.pipeline import RunSettings, lease, outcome_of, pipeline, run_stage
from tests.flows.conftest import ROOT, living_in, set_param, tell, wait_for


@pytest.fixture(autouse=True)
def _server(prefect_api: str) -> None:
    """Every test here talks to the one server."""


def run(folder: Path, **parameters: Any) -> State[Any]:
    return pipeline(folder, **parameters, return_state=True)


def task_states(state: State[Any], count: int) -> dict[str, str]:
    """The final states of a flow run's tasks; the server hears of them a moment later, as events."""
    only = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    found: dict[str, str] = {}

    def has_all() -> bool:
        with get_client(sync_client=True) as client:
            runs = client.read_task_runs(flow_run_filter=only, sort=TaskRunSort.END_TIME_DESC, limit=50)
        found.update({run.name: f"{run.state.name}: {run.state.message}" for run in runs if run.state})
        return len([run for run in runs if run.state and run.state.is_final()]) == count

    wait_for(has_all, "the states of the tasks", 30)
    return found


def table_of(state: State[Any]) -> list[dict[str, Any]]:
    """The rows of the one artifact of a flow run."""
    only = {"artifacts": {"flow_run_id": {"any_": [str(state.state_details.flow_run_id)]}}}
    with get_client(sync_client=True) as client:
        (artifact,) = client.request("POST", "/artifacts/filter", json=only).json()
    assert (artifact["key"], artifact["type"]) == ("pipeline", "table")
    rows: list[dict[str, Any]] = json.loads(artifact["data"])
    return rows


def test_one_task_a_stage_says_what_happened_and_the_table_lists_it(project: Path) -> None:
    set_param(project, "middle", 2)
    state = run(project)
    assert (state.name, state.message) == ("Completed", "1 unchanged, 2 ran")
    assert task_states(state, 3) == {
        "first": "Cached: unchanged: nothing that it depends on changed",
        "middle": "Completed: ran: middle.x: 1 → 2",
        "last": "Completed: ran: out/middle changed",
    }
    rows = table_of(state)
    assert [row["stage"] for row in rows] == ["first", "middle", "last"]
    assert list(rows[0]) == ["stage", "status", "why", "seconds", "key metrics"]


def test_a_failed_stage_skips_the_rest_and_the_flow_fails_with_its_error(project: Path) -> None:
    set_param(project, "first", 2)
    tell(project, "first", "fail data")  # once: a second try would succeed
    state = run(project)
    assert state.is_failed()
    assert state.message == "stage `first` failed (data): SomeError: the data is in the way"
    receipt = json.loads((project / "runs/receipts/first.json").read_text())
    assert receipt["run"] == str(state.state_details.flow_run_id), "what a stage tells names the run that it is part of"
    assert task_states(state, 1) == {"first": "Failed: data: SomeError: the data is in the way"}
    assert [row["status"] for row in table_of(state)] == ["failed (data)", "skipped", "skipped"]


def test_a_network_fault_is_retried(project: Path) -> None:
    set_param(project, "first", 2)
    tell(project, "first", "fail network")  # once: the second try succeeds
    stage = stages_in_order(project)[0]

    @flow
    def one_stage() -> str:
        patient = run_stage.with_options(retry_delay_seconds=0)
        return outcome_of(stage, patient(stage, project, RunSettings(), return_state=True)).status

    assert one_stage() == "ran"


def test_a_stage_on_a_gpu_takes_a_place_under_the_limit_as_long_as_it_runs(project: Path) -> None:
    stage = dataclasses.replace(stages_in_order(project)[0], uses_gpu=True)
    settings = RunSettings(gpu_limit="gpu-of-the-test")

    def taken() -> int:
        with get_client(sync_client=True) as client:
            return client.read_global_concurrency_limit_by_name("gpu-of-the-test").active_slots

    with lease(stage, settings):  # a server without the limit limits nothing
        pass
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name("gpu-of-the-test", 1)
    with lease(stage, settings):
        assert taken() == 1
    assert taken() == 0
    with lease(stages_in_order(project)[0], settings):
        assert taken() == 0, "a stage that uses none takes no place"


def test_a_project_that_dvc_cannot_read_fails_in_one_line(project: Path) -> None:
    (project / "dvc.yaml").write_text("stages: [")
    state = run(project)
    assert state.is_failed()
    assert state.message is not None
    assert "dvc.yaml" in state.message
    assert "\n" not in state.message


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_flow_that_is_stopped_or_killed_keeps_the_checkpoint_and_leaves_no_process(
    project: Path, prefect_api: str, number: signal.Signals
) -> None:
    set_param(project, "first", 2)
    tell(project, "first", "train")
    env = {**os.environ, "PREFECT_API_URL": prefect_api}
    log = (project.parent / "log").open("wb")
    command = [sys.executable, "-m", "flows.pipeline", "--workspace", str(project)]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: b"training" in (project.parent / "log").read_bytes(), "the stage to start", 120)
        process.send_signal(number)
        process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
        log.close()
    wait_for(lambda: not living_in(project), "every process to end", 30)
    assert process.returncode != 0
    assert (project / "checkpoint").exists()
