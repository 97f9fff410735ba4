"""The stages of the tiny project, and why one is stale."""

from __future__ import annotations

import subprocess
from pathlib import Path

from flows.dvc_project.graph import open_index, stages_in_order, staleness_of
from tests.flows.conftest import ROOT, dvc, git, set_param
from tests.rules.source import STAGES


def test_the_stages_come_in_the_order_of_the_data_not_of_the_file(project: Path) -> None:
    stages = stages_in_order(project)
    assert [stage.name for stage in stages] == ["first", "middle", "last"]
    assert [stage.targets for stage in stages] == [("first",), ("middle",), ("last",)]


def test_this_projects_ten_stages_come_in_the_order_of_the_design() -> None:
    names = [stage.name for stage in stages_in_order(ROOT)]
    assert names == list(STAGES)


def test_a_data_file_tracked_on_its_own_goes_before_the_stage_that_reads_it(project: Path) -> None:
    (project / "raw").mkdir()
    (project / "raw" / "pairs.csv").write_text("a,b\n")
    dvc(project, "add", "--quiet", "raw/pairs.csv")
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text.replace("deps: [stage.py]\n", "deps: [stage.py, raw]\n"))
    assert stages_in_order(project)[0].targets == ("raw/pairs.csv.dvc", "first")


def test_nothing_changed_gives_no_reason(project: Path) -> None:
    assert [staleness_of(project, name).why for name in ("first", "middle", "last")] == ["", "", ""]


def test_a_changed_param_is_named_with_both_values(project: Path) -> None:
    set_param(project, "middle", 2)
    assert staleness_of(project, "middle").why == "middle.x: 1 → 2"


def test_a_changed_module_and_a_missing_output_are_named(project: Path) -> None:
    (project / "stage.py").write_text((project / "stage.py").read_text() + "# edited\n")
    (project / "out" / "first" / "data.txt").unlink()
    assert staleness_of(project, "first").why == "stage.py changed; out/first changed"


def test_more_than_three_reasons_are_counted(project: Path) -> None:
    (project / "dvc.yaml").write_text((project / "dvc.yaml").read_text().replace("python stage.py", "python  stage.py"))
    (project / "stage.py").write_text("")
    set_param(project, "last", 2)
    (project / "out" / "middle" / "data.txt").write_text("")
    (project / "out" / "last" / "data.txt").write_text("")
    assert staleness_of(project, "last").why.endswith("and 2 more")


def test_a_stage_that_never_ran_says_so(project: Path) -> None:
    (project / "dvc.lock").unlink()
    assert staleness_of(project, "first").why == "it has not run here before"


def test_the_cache_is_known_to_hold_the_outputs_or_not(project: Path, clone: Path) -> None:
    assert staleness_of(project, "first").is_in_cache
    assert not staleness_of(clone, "first").is_in_cache


def test_dvc_sees_a_file_that_is_tracked_in_data_raw_of_this_project(tmp_path: Path) -> None:
    """A .gitignore that ignores data/* and takes data/raw back hides every .dvc file there from DVC."""
    (tmp_path / "data/raw").mkdir(parents=True)
    (tmp_path / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    git(tmp_path, "init", "--quiet")
    dvc(tmp_path, "init", "--quiet")
    (tmp_path / "data/raw/feedback.jsonl").write_text("{}\n")
    dvc(tmp_path, "add", "--quiet", "data/raw/feedback.jsonl")
    assert [node.path_in_repo for node in open_index(tmp_path).stages] == ["data/raw/feedback.jsonl.dvc"]


def test_git_ignores_every_output_of_this_project_before_it_is_made(tmp_path: Path) -> None:
    """A pattern that ends in a slash says nothing of a folder that is not there yet, as in a fresh clone."""
    outs = [str(out) for node in open_index(ROOT).stages for out in node.outs]
    (tmp_path / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    git(tmp_path, "init", "--quiet")
    ignored = subprocess.run(["git", "check-ignore", *outs], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert sorted(ignored.stdout.split()) == sorted(outs)
