"""The statuses, held to what the pinned DVC really does: each test runs it on the tiny project."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flows.dvc_project import stage_run
from flows.dvc_project.graph import stages_in_order
from flows.dvc_project.outcome import Outcome
from flows.process_tree.supervisor import Grace
from tests.flows.conftest import living_in, set_param, tell


def run(folder: Path, *names: str, force: bool = False, timeout_s: float | None = None) -> list[Outcome]:
    chosen = [stage for stage in stages_in_order(folder) if stage.name in names]
    return [stage_run.run(stage, folder, print, force, timeout_s, Grace(5.0, 1.0)) for stage in chosen]


def statuses(outcomes: list[Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


def test_a_changed_param_runs_its_stage_and_those_after_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_param(project, "middle", 2)
    outcomes = run(project, "middle", "last")
    assert statuses(outcomes) == ["ran", "ran"]
    assert [outcome.why for outcome in outcomes] == ["middle.x: 1 → 2", "out/middle changed"]
    assert "middle: {x: 2}" in (project / "out" / "last" / "data.txt").read_text()
    told = capsys.readouterr().out
    assert "middle starts" in told
    assert "dvc push" not in told


def test_a_forced_stage_runs_though_nothing_changed(project: Path) -> None:
    (outcome,) = run(project, "first", force=True)
    assert (outcome.status, outcome.why) == ("ran", "it was forced")


def test_a_missing_output_is_restored_from_the_cache(project: Path) -> None:
    shutil.rmtree(project / "out" / "first")
    (outcome,) = run(project, "first")
    assert (outcome.status, outcome.is_cached) == ("restored", True)
    assert outcome.why == "the cache holds its output (out/first is missing)"
    assert (project / "out" / "first" / "data.txt").exists()


def test_a_param_flipped_and_flipped_back_is_restored_from_the_run_cache(project: Path) -> None:
    before = (project / "out" / "last" / "data.txt").read_text()
    set_param(project, "last", 2)
    assert statuses(run(project, "last")) == ["ran"]
    set_param(project, "last", 1)
    (outcome,) = run(project, "last")
    assert (outcome.status, outcome.why) == ("restored", "the run cache holds this run (last.x: 2 → 1)")
    assert (project / "out" / "last" / "data.txt").read_text() == before


def test_what_another_process_is_only_just_writing_is_no_earlier_run(project: Path) -> None:
    shutil.rmtree(project / "out" / "first")
    known = list((project / ".dvc" / "cache" / "runs").glob("*/*"))
    assert known
    for number, folder in enumerate(known):
        if number % 2:
            (folder / ".renamed-meanwhile.tmp").symlink_to("gone")
        else:
            (folder / ".half-written.tmp").write_text("outs: [")
    set_param(project, "last", 2)
    set_param(project, "middle", 2)
    assert statuses(run(project, "first", "middle", "last")) == ["restored", "ran", "ran"]
    set_param(project, "last", 1)
    set_param(project, "middle", 1)
    assert statuses(run(project, "middle", "last")) == ["restored", "restored"]
    assert len(list((project / ".dvc" / "cache" / "runs").glob("*/*/*.tmp"))) == len(known), "they are their writers'"


def test_a_fresh_clone_pulls_from_the_remote_and_runs_nothing_whatever_else_is_missing(clone: Path) -> None:
    outcomes = [*run(clone, "last"), *run(clone, "first")]  # `last` before what it reads
    assert statuses(outcomes) == ["pulled", "pulled"]
    assert (clone / "out" / "last" / "data.txt").exists()
    assert not (clone / "runs").exists()


@pytest.mark.parametrize("lost", ["files", "everything"])
def test_a_remote_that_lacks_the_data_is_no_error_and_the_stage_runs(clone: Path, lost: str) -> None:
    store = clone.parent / "store"
    shutil.rmtree(store / "files" if lost == "files" else store)
    (outcome,) = run(clone, "first")
    assert outcome.status == "ran"


def test_without_any_remote_the_stage_runs(clone: Path) -> None:
    (clone / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    (outcome,) = run(clone, "first")
    assert outcome.status == "ran"


def test_a_failure_carries_the_receipts_error_and_kind(project: Path) -> None:
    set_param(project, "first", 2)
    tell(project, "first", "fail data")
    (outcome,) = run(project, "first")
    assert (outcome.status, outcome.kind) == ("failed", "data")
    assert outcome.why == "SomeError: the data is in the way"


def test_a_receipt_of_an_earlier_run_is_not_taken_for_this_one(project: Path) -> None:
    set_param(project, "first", 2)
    tell(project, "first", "exit 75")
    stale = {"stage": "first", "status": "data", "error": "DataError: of yesterday"}
    (project / "runs" / "receipts" / "first.json").write_text(json.dumps(stale))
    (outcome,) = run(project, "first")
    assert (outcome.status, outcome.kind) == ("failed", "preempted")
    assert "exit code 75" in outcome.why


def test_a_fault_of_dvc_itself_is_told_in_its_own_words(project: Path) -> None:
    set_param(project, "middle", 2)
    (project / "out" / "first" / "data.txt").unlink()
    (project / "out" / "first").rmdir()
    shutil.rmtree(project / ".dvc" / "cache")
    shutil.rmtree(project.parent / "store")
    (outcome,) = run(project, "middle")
    assert (outcome.status, outcome.kind) == ("failed", "dvc")
    assert "out/first" in outcome.why


def test_a_lock_file_with_a_merge_conflict_fails_the_stage_in_one_line(project: Path) -> None:
    order = stages_in_order(project)
    (project / "dvc.lock").write_text("<<<<<<< ours\n" + (project / "dvc.lock").read_text())
    outcome = stage_run.run(order[0], project, print)
    assert (outcome.status, outcome.kind) == ("failed", "config")
    assert "dvc.lock" in outcome.why
    assert "\n" not in outcome.why


def test_a_deleted_module_fails_its_stage_though_dvc_would_call_it_unchanged(project: Path) -> None:
    (project / "stage.py").unlink()
    (outcome,) = run(project, "first")
    assert (outcome.status, outcome.kind) == ("failed", "artifact")
    assert outcome.why.startswith("stage.py is missing — restore it")


def lose_the_remote(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    text = "[core]\n    analytics = false\n    remote = s3\n['remote \"s3\"']\n    url = s3://bucket/store\n"
    text += "    endpointurl = http://127.0.0.1:9\n    access_key_id = a\n    secret_access_key = b\n"
    (folder / ".dvc" / "config").write_text(text)


def test_an_unreachable_remote_is_a_network_fault(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_the_remote(clone, monkeypatch)
    (outcome,) = run(clone, "first")
    assert (outcome.status, outcome.kind, outcome.is_worth_a_retry) == ("failed", "network", True)


def test_an_unreachable_remote_stops_nobody_who_needs_nothing_of_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_the_remote(project, monkeypatch)
    (outcome,) = run(project, "first")
    assert outcome.status == "unchanged"


def test_a_stopped_stage_keeps_its_checkpoint_leaves_no_process_and_no_lock(project: Path) -> None:
    def cancel(line: str) -> None:
        if line == "training":
            raise KeyboardInterrupt

    set_param(project, "first", 2)
    tell(project, "first", "train")
    with pytest.raises(KeyboardInterrupt):
        stage_run.run(stages_in_order(project)[0], project, cancel)
    assert (project / "checkpoint").exists()
    assert living_in(project) == []
    (project / "mood" / "first").unlink()
    assert statuses(run(project, "first")) == ["ran"]


def test_a_stage_past_its_deadline_fails_as_timed_out(project: Path) -> None:
    set_param(project, "first", 2)
    (outcome,) = run(project, "first", timeout_s=0.1)
    assert (outcome.status, outcome.kind, outcome.is_worth_a_retry) == ("failed", "timeout", False)
    assert outcome.why == "it was stopped after 0.1 s"


def test_a_stage_that_did_not_change_by_dvcs_account_costs_no_dvc(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_run, "run_watched", lambda *_: pytest.fail("DVC was started"))
    assert statuses(run(project, "first", "middle", "last")) == ["unchanged"] * 3
