"""What would run and why, and that nothing runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.dvc_project.forecast import forecast, inputs_besides_data
from flows.plan import markdown, summary
from tests.flows.conftest import ROOT, dvc, set_param


def steps(folder: Path) -> list[tuple[str, str, str]]:
    return [(step.stage, step.forecast, step.why) for step in forecast(folder)]


def test_nothing_would_run_where_nothing_changed(project: Path) -> None:
    assert [step.forecast for step in forecast(project)] == ["unchanged"] * 3
    assert summary(forecast(project)).startswith("nothing would run")


def test_stages_after_a_stale_one_are_stale_too_and_no_file_changes(project: Path) -> None:
    set_param(project, "first", 2)
    before = (project / "dvc.lock").read_bytes()
    assert steps(project) == [
        ("first", "run", "first.x: 1 → 2"),
        ("middle", "may run", "after first"),
        ("last", "may run", "after middle"),
    ]
    assert (project / "dvc.lock").read_bytes() == before
    assert "| first | would run | first.x: 1 → 2 |" in markdown(forecast(project))


def test_a_changed_param_and_a_stale_stage_before_are_both_given_as_reasons(project: Path) -> None:
    set_param(project, "first", 2)
    set_param(project, "middle", 2)
    assert steps(project)[1] == ("middle", "run", "middle.x: 1 → 2; after first")


def test_a_fresh_clone_without_data_is_not_stale(clone: Path) -> None:
    assert [step.forecast for step in forecast(clone)] == ["fetch"] * 3
    assert not any(step.is_stale for step in forecast(clone))


def test_a_lost_output_comes_from_the_cache(project: Path) -> None:
    (project / "out" / "middle" / "data.txt").unlink()
    assert steps(project)[1] == ("middle", "restore", "out/middle changed")
    assert steps(project)[2][:2] == ("last", "unchanged")


def test_a_param_that_was_flipped_and_is_flipped_back_comes_from_the_run_cache(project: Path) -> None:
    set_param(project, "middle", 2)
    dvc(project, "repro", "--quiet")
    set_param(project, "middle", 1)
    assert [step.forecast for step in forecast(project)] == ["unchanged", "restore", "restore"]


def test_a_stage_that_always_runs_does_so_where_others_come_from_the_run_cache(project: Path) -> None:
    always = "outs: [out/last]\n    always_changed: true"
    text = (project / "dvc.yaml").read_text()
    assert "outs: [out/last]" in text
    (project / "dvc.yaml").write_text(text.replace("outs: [out/last]", always))
    set_param(project, "middle", 2)
    dvc(project, "repro", "--quiet")
    set_param(project, "middle", 1)
    assert [step.forecast for step in forecast(project)] == ["unchanged", "restore", "run"]


def test_an_edited_module_makes_every_stage_stale_that_lists_it(clone: Path) -> None:
    (clone / "stage.py").write_text((clone / "stage.py").read_text() + "# edited\n")
    assert [step.forecast for step in forecast(clone)] == ["run"] * 3


def test_a_stage_that_never_ran_would_run(project: Path) -> None:
    (project / "dvc.lock").unlink()
    assert steps(project)[0] == ("first", "restore", "it has not run here before")
    shutil.rmtree(project / ".dvc" / "cache" / "runs")
    assert steps(project)[0] == ("first", "run", "it has not run here before")


def test_inputs_besides_data_do_not_depend_on_outputs_or_caches(project: Path, clone: Path) -> None:
    before, changed = inputs_besides_data(project, "first")
    assert changed == ()
    (project / "dvc.yaml").write_text((project / "dvc.yaml").read_text().replace("[middle]", "[first, middle]"))
    dvc(project, "repro", "--quiet")
    before, _ = inputs_besides_data(project, "first")
    set_param(project, "first", 2)
    assert inputs_besides_data(project, "first") == (before, ()), "they choose among the data, whoever else lists them"
    set_param(project, "middle", 2)
    after = inputs_besides_data(project, "first")
    assert (after[0] != before, after[1]) == (True, ("middle",))
    dvc(project, "repro", "--quiet")
    assert inputs_besides_data(project, "first") == (after[0], ())
    shutil.rmtree(project / "out")
    shutil.rmtree(project / ".dvc/cache")
    assert inputs_besides_data(project, "first") == (after[0], ())
    (clone / "stage.py").write_text("# edited\n")
    assert inputs_besides_data(clone, "none")[1] == ("first", "middle", "last")
    (clone / "stage.py").unlink()
    assert inputs_besides_data(clone, "none")[1] == ("first", "middle", "last")


def test_an_edit_in_a_room_of_the_data_stage_is_a_change_besides_data(project: Path) -> None:
    (project / "tasks/core").mkdir(parents=True)
    (project / "tasks/core/files.py").touch()
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text.replace("deps: [stage.py]", "deps: [stage.py, tasks/core]"))
    dvc(project, "repro", "--quiet")
    before = inputs_besides_data(project, "first")
    (project / "tasks/core/files.py").write_text("# edited\n")
    after = inputs_besides_data(project, "first")
    assert (after[0] != before[0], before[1], after[1]) == (True, (), ("first",))


@pytest.mark.parametrize("case", ["unchanged", "stale", "broken"])
def test_the_exit_status_says_whether_something_would_run(project: Path, case: str) -> None:
    if case == "stale":
        set_param(project, "last", 2)
    if case == "broken":
        (project / "dvc.yaml").write_text("stages: [")
    command = [sys.executable, "-m", "flows.plan", "--json", "--workspace", str(project)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == {"unchanged": 0, "stale": 1, "broken": 2}[case]
    if case == "broken":
        assert done.stderr.startswith("error: DVC cannot read")
        assert "Traceback" not in done.stderr
    else:
        assert [step["stage"] for step in json.loads(done.stdout)] == ["first", "middle", "last"]


def test_the_plan_and_the_run_agree_on_a_clone_with_the_remote(clone: Path) -> None:
    from flows.dvc_project import stage_run
    from flows.dvc_project.graph import stages_in_order

    set_param(clone, "last", 2)
    expected = {step.stage: step.is_stale for step in forecast(clone)}
    ran = {stage.name: stage_run.run(stage, clone, lambda _: None).status == "ran" for stage in stages_in_order(clone)}
    assert expected == ran == {"first": False, "middle": False, "last": True}
