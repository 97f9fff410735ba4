"""What a killed DVC leaves: a file of read and write locks, half written, is in nobody's way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from dvc.lock import make_lock

from flows.dvc_project import stage_run
from flows.dvc_project.graph import stages_in_order
from flows.dvc_project.new_data import run_dvc
from flows.dvc_project.run_cache import remove_torn_lock
from tests.flows.conftest import set_param

REMOVED = "removed .dvc/tmp/rwlock, which a killed DVC left half written"


def rwlock(project: Path, content: str) -> Path:
    path = project / ".dvc/tmp/rwlock"
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    return path


@pytest.mark.parametrize("content", ["", '{"write": {"/a/b": {"pid": 12, "cm'])
def test_a_stage_runs_after_a_dvc_that_was_killed_while_it_wrote_its_locks(project: Path, content: str) -> None:
    rwlock(project, content)
    alone = [sys.executable, "-m", "dvc", "repro", "--single-item", "last"]
    set_param(project, "last", 2)
    assert subprocess.run(alone, cwd=project, capture_output=True, check=False).returncode, (
        "by itself DVC fails for ever"
    )
    said: list[str] = []
    outcome = stage_run.run(stages_in_order(project)[2], project, said.append)
    assert (outcome.status, said.count(REMOVED)) == ("ran", 1)


def test_other_commands_of_dvc_go_on_and_say_so_too(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rwlock(project, "")
    assert run_dvc(project, "status", "--json").strip() == "{}"
    assert REMOVED in capfd.readouterr().err


def test_locks_that_are_whole_or_being_written_are_left_alone(project: Path) -> None:
    path = rwlock(project, "{}")
    assert not remove_torn_lock(project)
    path.write_text("")
    with make_lock(str(path.with_name("rwlock.lock"))):
        assert not remove_torn_lock(project)
    assert path.exists()
    assert remove_torn_lock(project)
    assert not path.exists()
    assert not remove_torn_lock(project)
