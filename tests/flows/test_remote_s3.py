"""DVC's remote in a bucket: pushed with the run-cache on one machine, pulled on another, nothing runs again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.dvc_project import stage_run
from flows.dvc_project.graph import stages_in_order
from tests import s3_server
from tests.flows.conftest import dvc, git, set_param

pytestmark = pytest.mark.e2e


def test_another_machine_pulls_what_one_pushed_and_runs_nothing(project: Path, monkeypatch: pytest.MonkeyPatch):
    with s3_server.serving(monkeypatch, "cache") as server:
        shutil.rmtree(project.parent / "store", ignore_errors=True)
        dvc(project, "remote", "modify", "store", "url", "s3://cache/dvc")
        dvc(project, "remote", "modify", "store", "endpointurl", server.url)
        dvc(project, "push", "--run-cache")
        git(project, "commit", "--all", "--quiet", "--message", "The remote is a bucket")
        assert server.names("cache")
        clone = project.parent / "clone"
        git(project.parent, "clone", "--quiet", str(project), str(clone))
        outcomes = [stage_run.run(stage, clone, lambda _: None) for stage in stages_in_order(clone)]
        assert [(outcome.stage, outcome.is_cached) for outcome in outcomes] == [
            ("first", True),
            ("middle", True),
            ("last", True),
        ]
        assert (clone / "out/last/data.txt").read_text() == (project / "out/last/data.txt").read_text()

        set_param(project, "middle", 2)  # a run whose lock nobody committed is found by the run-cache
        dvc(project, "repro", "--quiet")
        dvc(project, "push", "--run-cache")
        set_param(clone, "middle", 2)
        dvc(clone, "pull", "--run-cache", "--allow-missing")
        outcomes = [stage_run.run(stage, clone, lambda _: None) for stage in stages_in_order(clone)]
        assert all(outcome.is_cached for outcome in outcomes)
        assert (clone / "out/last/data.txt").read_text() == (project / "out/last/data.txt").read_text()
