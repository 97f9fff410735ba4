"""The workflows: few rights, nothing untrusted in a script, pinned actions, promotion behind an approval."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.infra.files import ACTIONS, INFRA, WORKFLOWS, document

RETRAIN = document(next(path for path in WORKFLOWS if path.stem == "retrain"))
TAG_OR_COMMIT = re.compile(r"(actions/[\w-]+@v\d+|[\w-]+/[\w-]+@[0-9a-f]{40}|\./\.github/actions/\w+)")


def steps(path: Path) -> list[Any]:
    """Return all steps of a workflow or of a composite action."""
    told = document(path)
    jobs = told["jobs"].values() if "jobs" in told else [told["runs"]]
    return [step for job in jobs for step in job["steps"]]


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_expression_reaches_a_script_but_through_the_environment(path: Path) -> None:
    assert [step["run"] for step in steps(path) if "${{" in step.get("run", "")] == []


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_actions_are_githubs_own_by_major_or_others_by_commit(path: Path) -> None:
    assert [
        step["uses"] for step in steps(path) if not TAG_OR_COMMIT.fullmatch(step.get("uses", "./.github/actions/a"))
    ] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_begins_with_no_more_than_reading_and_jobs_ask_for_what_they_need(path: Path) -> None:
    told = document(path)
    assert told["permissions"] in ({}, {"contents": "read"})
    if told["permissions"] == {}:
        assert [name for name, job in told["jobs"].items() if "permissions" not in job] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_jobs_end_by_themselves_and_checkouts_keep_no_token(path: Path) -> None:
    told = document(path)
    assert [name for name, job in told["jobs"].items() if "timeout-minutes" not in job] == []
    checkouts = [step for step in steps(path) if step.get("uses", "").startswith("actions/checkout")]
    assert [step for step in checkouts if step["with"]["persist-credentials"] is not False] == []
    assert "pull_request_target" not in told.get("on", told.get(True)), "a fork's code would run with our rights"


def test_only_the_job_that_opens_the_pull_request_may_write() -> None:
    writers = {
        name for name, job in RETRAIN["jobs"].items() if {"contents", "pull-requests"} & _written(job["permissions"])
    }
    assert writers == {"retrain"}


def _written(permissions: dict[str, str]) -> set[str]:
    return {name for name, level in permissions.items() if level == "write"}


def test_promotion_waits_for_the_environment_and_asks_the_gate_for_the_version_that_was_trained() -> None:
    job = RETRAIN["jobs"]["promote"]
    assert job["environment"] == "production"
    assert job["needs"] == "retrain"
    (step,) = (step for step in job["steps"] if "tasks.registry" in step.get("run", ""))
    assert step["env"]["VERSION"] == "${{ needs.retrain.outputs.version }}"
    assert "--override" not in step["run"]
    assert '--reason "approved in $RUN"' in step["run"]
    assert "${{ github.run_id }}" in step["env"]["RUN"]
    assert [name for name, other in RETRAIN["jobs"].items() if "environment" in other] == ["promote"]


def test_each_job_takes_the_role_of_what_it_does() -> None:
    roles = {
        name: step["with"]["role"]
        for name, job in RETRAIN["jobs"].items()
        for step in job["steps"]
        if step.get("uses", "").startswith("./")
    }
    assert roles == {
        "plan": "${{ vars.AWS_READER_ROLE }}",
        "retrain": "${{ vars.AWS_TRAINER_ROLE }}",
        "promote": "${{ vars.AWS_PROMOTER_ROLE }}",
    }


def test_trainings_do_not_overlap_and_are_not_cut_off() -> None:
    assert RETRAIN["jobs"]["retrain"]["concurrency"] == {"group": "retrain", "cancel-in-progress": False}


def test_a_job_on_our_own_runner_keeps_what_git_ignores_and_tracked_files_are_the_commits() -> None:
    for job in (job for job in RETRAIN["jobs"].values() if "self-hosted" in job["runs-on"]):
        checkout, reset = job["steps"][:2]
        assert checkout["with"]["clean"] is False, "or a job that was cut starts from nothing"
        assert reset["run"] == "git reset --hard --quiet"


def test_what_the_plan_calls_due_is_trained_by_either_way() -> None:
    commands = {name: " ".join(step.get("run", "") for step in job["steps"]) for name, job in RETRAIN["jobs"].items()}
    assert " --also-stale" in commands["retrain"]
    assert " --param also_stale=true" in commands["deployment"]


def test_a_run_that_finds_its_branch_there_has_no_report_and_goes_on() -> None:
    (upload,) = (step for step in RETRAIN["jobs"]["retrain"]["steps"] if step.get("id") == "report")
    assert upload["with"]["if-no-files-found"] == "ignore"


def test_every_variable_and_secret_of_the_workflows_is_explained() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in [*WORKFLOWS, *ACTIONS])
    asked = set(re.findall(r"\b(?:vars|secrets)\.(\w+)", text))
    told = (INFRA / "README.md").read_text(encoding="utf-8")
    assert asked
    assert [name for name in sorted(asked) if f"`{name}`" not in told] == [], "name these in infra/README.md"
