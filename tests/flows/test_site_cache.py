"""DVC's state lies in the checkout, where no other user can write: DVC loads pickles from there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.dvc_project import stage_run
from flows.dvc_project.graph import open_repo, stages_in_order
from flows.dvc_project.run_cache import site_cache
from tests.flows.conftest import ROOT, git, set_param

SITE = ".dvc-site"


@pytest.fixture(autouse=True)
def _defaults(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody has named a folder, and what this user makes is nobody's secret."""
    monkeypatch.delenv("DVC_SITE_CACHE_DIR", raising=False)
    before = os.umask(0o022)
    yield
    os.umask(before)


def assert_only_ours(project: Path) -> None:
    """Check that DVC's state is there, and that no other user can write into it."""
    folders = [project / SITE, *(path for path in (project / SITE).rglob("*") if path.is_dir())]
    assert [path for path in folders if path.stat().st_mode & 0o022] == []
    assert any(project.glob(f"{SITE}/repo/*/links/cache.db")), "DVC's databases are there"


def test_a_stage_of_the_flows_keeps_its_state_in_the_checkout(project: Path) -> None:
    shutil.rmtree(project / SITE, ignore_errors=True)
    set_param(project, "last", 2)
    assert stage_run.run(stages_in_order(project)[2], project, lambda _: None).status == "ran"
    assert_only_ours(project)
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=project, capture_output=True, text=True, check=True)
    assert SITE not in changed.stdout


def test_dvc_itself_does_so_in_a_clone_of_this_project(project: Path) -> None:
    listed = subprocess.run(["git", "ls-files", SITE], cwd=ROOT, capture_output=True, text=True, check=True)
    shutil.rmtree(project / SITE, ignore_errors=True)
    for name in (*listed.stdout.split(), ".dvc/config"):  # as git makes a clone
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text((ROOT / name).read_text())
    done = subprocess.run([sys.executable, "-m", "dvc", "checkout"], cwd=project, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_only_ours(project)


def test_a_folder_that_everybody_could_write_is_closed(project: Path) -> None:
    shutil.rmtree(project / SITE, ignore_errors=True)
    (project / SITE / "repo").mkdir(parents=True)
    for path in (project / SITE, project / SITE / "repo"):
        path.chmod(0o777)
    assert site_cache(project) == str(project / SITE)
    assert (project / SITE / "repo").stat().st_mode & 0o002 == 0


def test_a_project_is_looked_at_from_another_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Path(open_repo(project).site_cache_dir).parent == project / SITE / "repo"
    assert list(Path().iterdir()) == []


def test_git_leaves_the_state_out(project: Path) -> None:
    site_cache(project)
    (project / SITE / "repo" / "state").touch()
    git(project, "add", "--all")
    listed = subprocess.run(["git", "ls-files", SITE], cwd=project, capture_output=True, text=True, check=True)
    assert "state" not in listed.stdout
