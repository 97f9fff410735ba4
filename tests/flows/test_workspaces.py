"""One run at a time in a checkout, many at once in worktrees that share the cache, and nothing shared by accident."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.dvc_project import stage_run
from flows.dvc_project.forecast import forecast
from flows.dvc_project.graph import stages_in_order
from flows.git_work import workspaces
from tasks.registry.stores.open_store import open_store
from tasks.telemetry import git_calls
from tests.flows.conftest import ROOT, git, set_param, wait_for


def test_a_second_run_waits_for_the_first_and_says_for_whom(tmp_path: Path) -> None:
    lock = tmp_path / "runs/flow.lock"
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with workspaces.hold_lock(lock, said.append):
            order.append("second")

    thread = threading.Thread(target=second)
    with workspaces.hold_lock(lock, said.append):
        thread.start()
        wait_for(lambda: said, "the second to wait", 10)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]
    assert said[0].startswith("waiting: process ")


def test_the_lock_of_a_killed_run_is_free(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from flows.git_work.workspaces import hold_lock\n"
    code += f"with hold_lock(Path({str(tmp_path / 'lock')!r}), print): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        process.kill()
    began = time.monotonic()
    with workspaces.hold_lock(tmp_path / "lock", print):
        assert time.monotonic() - began < 5


def test_a_worktree_shares_cache_remote_row_store_judges_caches_and_registry_and_nothing_else(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = "runtime: {row_store: runs/rows}\n"
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + params)
    git(project, "commit", "--all", "--quiet", "--message", "Folders to share")
    folder = workspaces.worktree(project, "one", "HEAD")
    assert folder == project / "runs/worktrees/one"
    assert [step.forecast for step in forecast(folder)] == ["restore"] * 3
    for place in ("runs/rows", "runs/judge"):
        (folder / place / "mine").touch()
        assert (project / place / "mine").exists()
    with monkeypatch.context() as context:
        context.chdir(folder)
        assert open_store("models/registry").put("tiny/mine", b"")
    assert workspaces.worktree(project, "one", "HEAD") == folder, "one that a died run left is taken as it is"
    statuses = [stage_run.run(stage, folder, lambda _: None).status for stage in stages_in_order(folder)]
    assert statuses == ["restored"] * 3
    workspaces.remove_worktree(project, folder)
    assert not folder.exists()
    assert (project / "runs/rows/mine").exists(), "what was shared stays"
    assert (project / "runs/judge/mine").exists()
    assert (project / "models/registry/tiny/mine").exists()
    assert [step.forecast for step in forecast(project)] == ["unchanged"] * 3


def test_what_a_died_run_left_under_runs_goes_along_to_the_next(project: Path) -> None:
    died = workspaces.worktree(project, "data-1", "HEAD")
    (died / "runs/train").mkdir(parents=True)
    (died / "runs/train/checkpoint").touch()
    fresh = workspaces.worktree(project, "look", "HEAD")
    renamed = workspaces.rename_worktree(project, fresh, "data-1")
    assert renamed == died
    assert (renamed / "runs/train/checkpoint").exists()
    assert not fresh.exists()


LOCAL = """
[core]
    checksum_jobs = 2
[cache]
    dir = ../../shared
    type = copy
['remote "store"']
    verify = true
['remote "bucket"']
    url = s3://bucket/cache
    credentialpath = ../keys
"""


def test_a_worktree_keeps_all_that_the_checkouts_own_settings_of_dvc_say(project: Path) -> None:
    from dvc.repo import Repo

    shutil.move(project / ".dvc/cache", project.parent / "shared")
    (project / ".dvc/config.local").write_text(LOCAL)
    for _ in range(2):  # one that a died run left has settings already
        folder = workspaces.worktree(project, "one", "HEAD")
        settings = Repo(str(folder)).config
        assert settings["core"]["checksum_jobs"] == 2
        assert (settings["cache"]["dir"], settings["cache"]["type"]) == (str(project.parent / "shared"), ["copy"])
        store, bucket = settings["remote"]["store"], settings["remote"]["bucket"]
        assert (store["url"], store["verify"]) == (str(project.parent / "store"), True)
        assert (bucket["url"], bucket["credentialpath"]) == ("s3://bucket/cache", str(project / "keys"))
    assert [step.forecast for step in forecast(folder)] == ["restore"] * 3
    assert (project / ".dvc/config.local").read_text() == LOCAL


@pytest.mark.parametrize("left", ["half made", "half removed", "unknown to git"])
def test_what_a_killed_run_left_of_a_worktree_is_in_nobodys_way(project: Path, left: str) -> None:
    for name in ("look", "data-1"):
        folder = workspaces.worktree(project, name, "HEAD")
        (folder / "dvc.yaml").unlink()
        if left == "half made":
            (project / ".git/worktrees" / name / "locked").write_text("initializing")
        elif left == "half removed":
            (folder / ".git").unlink()
        else:
            shutil.rmtree(project / ".git/worktrees" / name)
    fresh = workspaces.worktree(project, "look", "HEAD")
    assert (fresh / "dvc.yaml").is_file()
    renamed = workspaces.rename_worktree(project, fresh, "data-1")
    assert (renamed / "dvc.yaml").is_file()
    workspaces.remove_worktree(project, renamed)
    assert list((project / "runs/worktrees").iterdir()) == []


@pytest.mark.e2e
def test_eight_runs_at_once_in_worktrees_of_one_repository_all_end_right(project: Path) -> None:
    folders = [workspaces.worktree(project, f"tree-{i}", "HEAD") for i in range(8)]
    for i, folder in enumerate(folders):
        set_param(folder, "middle", 100 + i // 2)  # two and two want the same

    def run(folder: Path) -> None:
        said: list[str] = []
        done = [stage_run.run(stage, folder, said.append) for stage in stages_in_order(folder)]
        assert "failed" not in [outcome.status for outcome in done], (done, said)

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(run, folders))) == len(folders)
    for folder in folders:
        assert [step.forecast for step in forecast(folder)] == ["unchanged"] * 3
    texts = [(folder / "out/last/data.txt").read_text() for folder in folders]
    assert texts[::2] == texts[1::2]
    assert len(set(texts)) == 4
    assert [step.forecast for step in forecast(project)] == ["unchanged"] * 3


def test_a_checkout_that_is_not_there_is_refused_and_not_made(tmp_path: Path) -> None:
    from tasks.core.errors import StorageError

    with (
        pytest.raises(StorageError, match="name a checkout"),
        workspaces.hold_lock(tmp_path / "no/runs/flow.lock", print),
    ):
        pytest.fail("it was held")
    assert list(tmp_path.iterdir()) == []


def test_a_repository_that_git_refuses_is_told_in_one_line(tmp_path: Path) -> None:
    from tasks.core.errors import ConfigError

    with pytest.raises(ConfigError, match="not a git repository"):
        git_calls.git(tmp_path, "rev-parse", "HEAD")


def test_a_run_in_a_folder_that_is_not_there_has_a_name_and_git_says_so(tmp_path: Path) -> None:
    from flows.prefect_ui import run_names
    from tasks.core.errors import ConfigError

    assert run_names.describe_checkout(tmp_path / "no") == ("", "")
    with pytest.raises(ConfigError, match="is no folder"):
        git_calls.git(tmp_path / "no", "status")
