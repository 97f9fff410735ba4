"""Retraining on new data: counted, trained in a worktree, committed to a branch, and only once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State

from flows.git_work import workspaces
from flows.git_work.workspaces import WORKTREES
from flows.retrain import retrain
from tests import s3_server
from tests.conftest import DVC_CONFIG
from tests.flows.conftest import dvc, git
from tests.infra.files import WORKFLOWS, document

pytestmark = pytest.mark.e2e

RETRAIN = next(path for path in WORKFLOWS if path.stem == "retrain")
INGEST = """
import json, pathlib
import pyarrow as pa, pyarrow.parquet as pq

rows = [json.loads(line) for path in sorted(pathlib.Path("data/raw").rglob("*.jsonl")) for line in open(path)]
out = pathlib.Path("data/pairs")
out.mkdir(parents=True)
ids = sorted({row["id"] for row in rows})
pq.write_table(pa.table({"pair_id": pa.array(ids[1:], pa.string())}), out / "train.parquet")
pq.write_table(pa.table({"pair_id": pa.array(ids[:1], pa.string())}), out / "test.parquet")
"""
TRAIN = """
import pathlib, shutil, sys

for name, text in (("train/evals.csv", "step\\n0\\n"), ("register/registration.json", open("entry.json").read())):
    file = pathlib.Path("results") / name
    file.parent.mkdir(parents=True)
    file.write_text(text)
half, trouble = pathlib.Path("runs/half"), pathlib.Path("../../../trouble")
if trouble.exists():
    half.write_text("done so far")
    trouble.unlink()
    sys.exit("the machine was taken away")
out = pathlib.Path("models/adapter")
out.mkdir(parents=True)
shutil.copy("data/pairs/train.parquet", out)
if half.exists():
    pathlib.Path("runs/rows/resumed").touch()
"""
DVC_YAML = """
stages:
  ingest:
    cmd: python ingest.py
    deps: [ingest.py, data/raw]
    params: [ingest]
    outs: [data/pairs]
  train:
    cmd: python train.py
    deps: [train.py, data/pairs]
    params: [train]
    outs: [models/adapter, results/train, results/register]
"""
ENTRY = {"name": "tiny", "version": "1" * 64, "serial": 2, "alias": "champion", "promoted": False, "outcome": "keep"}
PARAMS = """\
ingest:
  sources: [data/raw/*.jsonl]
register:
  name: tiny
  root: models/registry
runtime:
  row_store: runs/rows
train: {x: 1}
"""


@pytest.fixture(scope="module", autouse=True)
def _server(prefect_api: str) -> None:
    """Every test here talks to the one server."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with ten pairs in git, up to date, DVC's remote beside it; only to be copied."""
    folder = tmp_path_factory.mktemp("built") / "work" / "project"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text(DVC_CONFIG)
    (folder / ".dvc" / ".gitignore").write_text("/tmp\n/cache\n/config.local\n")
    (folder / ".gitignore").write_text("/data/pairs\n/models/\n/results/\n/runs/\n/trouble\n")
    for name, text in {"ingest.py": INGEST, "train.py": TRAIN, "dvc.yaml": DVC_YAML, "params.yaml": PARAMS}.items():
        (folder / name).write_text(text)
    (folder / "entry.json").write_text(json.dumps(ENTRY))
    add_pairs(folder, "first", 10)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    dvc(folder, "repro", "--quiet")
    dvc(folder, "push", "--quiet", "--run-cache")
    save(folder, "One whole run")
    return folder


@pytest.fixture
def repository(built: Path, tmp_path: Path) -> Path:
    """A copy of the project that came from a bare repository."""
    shutil.copytree(built.parent, tmp_path / "work", symlinks=True)
    folder = tmp_path / "work" / "project"
    git(tmp_path, "clone", "--quiet", "--bare", str(folder), str(tmp_path / "origin.git"))
    git(folder, "remote", "add", "origin", str(tmp_path / "origin.git"))
    return folder


def add_pairs(folder: Path, name: str, count: int) -> None:
    (folder / "data" / "raw").mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"id": f"{name}-{i}"}) for i in range(count)]
    (folder / "data" / "raw" / f"{name}.jsonl").write_text("\n".join(rows) + "\n")


def save(folder: Path, message: str) -> None:
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", message)


def look(folder: Path, minimum: int = 5, **more: Any) -> State[Any]:
    return retrain(folder, minimum_new_pairs=minimum, return_state=True, **more)


def said(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def branches(folder: Path) -> list[str]:
    return [name for name in said(folder, "branch", "--format", "%(refname:short)").split() if name != "main"]


def worktrees(folder: Path) -> list[str]:
    place = folder / WORKTREES
    return sorted(path.name for path in place.iterdir()) if place.is_dir() else []


def test_without_new_data_nothing_happens(repository: Path) -> None:
    state = look(repository)
    assert (state.name, state.message) == ("NothingNew", "nothing new: the data is that of dvc.lock")
    assert (branches(repository), worktrees(repository)) == ([], [])


def test_too_few_new_pairs_wait_for_more(repository: Path) -> None:
    add_pairs(repository, "second", 4)
    save(repository, "Four more pairs")
    state = look(repository)
    assert (state.name, state.message) == ("NothingNew", "nothing new: 4 new pairs, fewer than 5")
    assert (branches(repository), worktrees(repository)) == ([], [])


def test_new_data_are_trained_on_once_and_handed_on(repository: Path, tmp_path: Path) -> None:
    add_pairs(repository, "second", 6)
    save(repository, "Six more pairs")
    head = said(repository, "rev-parse", "HEAD")
    (repository / "untracked.txt").write_text("mine")
    state = look(repository)
    assert (state.name, state.message) == ("Completed", "trained: 6 new pairs")
    (branch,) = branches(repository)
    assert said(tmp_path / "origin.git", "rev-parse", branch) == said(repository, "rev-parse", branch)
    assert said(repository, "rev-parse", f"{branch}~1") == head
    assert said(repository, "show", "--name-only", "--format=%s", branch).split("\n\n") == [
        f"Retrain on 6 new pairs (data {branch.removeprefix('retrain/')})",
        "dvc.lock",
    ]
    assert said(repository, "rev-parse", "HEAD") == head, "the checkout itself is left alone"
    assert said(repository, "status", "--porcelain") == "?? untracked.txt"
    assert worktrees(repository) == []
    again = look(repository)
    assert (again.name, again.message) == ("NothingNew", f"nothing new: branch {branch} was trained on it")
    git(repository, "branch", "--delete", "--force", branch)  # as actions/checkout does
    result = look(repository).result()
    assert (result.branch, Path(result.report).is_dir()) == (branch, True), "who hands it on may have died before"

    shutil.rmtree(repository / ".dvc" / "cache")  # another machine has the branch and the remote, nothing else
    git(tmp_path, "clone", "--quiet", "--branch", branch, str(tmp_path / "origin.git"), str(tmp_path / "work/clone"))
    dvc(tmp_path / "work/clone", "pull", "--quiet")
    assert (tmp_path / "work/clone/models/adapter/train.parquet").is_file()
    merged = look(tmp_path / "work/clone")
    assert merged.message == "nothing new: the data is that of dvc.lock"


def test_the_workflow_finds_what_came_of_a_branch_that_only_origin_has(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", str(tmp_path / "origin.git"), str(tmp_path / "work/runner"))
    add_pairs(repository, "second", 6)
    save(repository, "Six more pairs")
    branch = look(repository).result().branch
    runner, output = tmp_path / "work/runner", tmp_path / "output"
    (tmp_path / "work/store").rename(tmp_path / "elsewhere")
    dvc(runner, "remote", "modify", "--local", "store", "url", str(tmp_path / "elsewhere"))
    (runner / "runs/ci").mkdir(parents=True)
    (runner / "runs/ci/summary.json").write_text(json.dumps({"branch": branch}))
    (step,) = (step for step in document(RETRAIN)["jobs"]["retrain"]["steps"] if step.get("id") == "result")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "GITHUB_OUTPUT": str(output)}
    subprocess.run(["bash", "-eo", "pipefail", "-c", step["run"]], cwd=runner, env=env, check=True)
    assert output.read_text() == f"branch={branch}\nversion=tiny@{'1' * 64}\n"
    assert (runner / "runs/ci/evals.csv").read_text() == "step\n0\n"


def test_a_run_that_failed_goes_on_with_the_newest_code(repository: Path) -> None:
    add_pairs(repository, "second", 6)
    save(repository, "Six more pairs")
    (repository / "trouble").touch()
    assert look(repository).is_failed()
    assert (branches(repository), len(worktrees(repository))) == ([], 1)
    (repository / "note.md").write_text("mended\n")
    save(repository, "Mend something else")
    git(repository, "remote", "set-url", "origin", "/nowhere")  # who does not push is not asked
    assert look(repository, push=False).message == "trained: 6 new pairs"
    assert (repository / "runs/rows/resumed").exists(), "runs/ went along, and the shared row store is the checkout's"
    assert (len(branches(repository)), worktrees(repository)) == (1, [])


def test_a_run_whose_code_was_mended_goes_on_from_its_checkpoint_under_another_key(repository: Path) -> None:
    add_pairs(repository, "second", 6)
    save(repository, "Six more pairs")
    (repository / "trouble").touch()
    assert look(repository, also_stale=True).is_failed()
    (repository / "train.py").write_text(TRAIN + "# mended\n")
    save(repository, "Mend the training")
    assert look(repository, also_stale=True).message == "trained: 6 new pairs, stale: train"
    assert (repository / "runs/rows/resumed").exists()
    assert (len(branches(repository)), worktrees(repository)) == (1, [])


def test_what_an_older_commits_run_left_is_swept_up_and_in_nobodys_way(repository: Path) -> None:
    workspaces.worktree(repository, f"look-{said(repository, 'rev-parse', 'HEAD')[:12]}", "HEAD")
    add_pairs(repository, "second", 6)
    save(repository, "Six more pairs")
    half_made = f"look-{said(repository, 'rev-parse', 'HEAD')[:12]}"
    (workspaces.worktree(repository, half_made, "HEAD") / "dvc.yaml").unlink()
    (repository / ".git/worktrees" / half_made / "locked").touch()
    assert look(repository).message == "trained: 6 new pairs"
    assert worktrees(repository) == []


@pytest.mark.parametrize("known_by", ["both", "origin", "nobody who has the pairs"])
def test_pairs_that_a_branch_was_trained_on_are_not_new_while_it_is_unmerged(
    repository: Path, tmp_path: Path, known_by: str
) -> None:
    add_pairs(repository, "second", 6)
    save(repository, "Six more pairs")
    assert look(repository).message == "trained: 6 new pairs"
    (branch,) = branches(repository)
    add_pairs(repository, "third", 4)
    save(repository, "Four more pairs")
    if known_by != "both":
        git(repository, "branch", "--delete", "--force", branch)
        git(repository, "update-ref", "-d", f"refs/remotes/origin/{branch}")
        shutil.rmtree(repository / ".dvc/cache")
    if known_by == "nobody who has the pairs":
        shutil.rmtree(tmp_path / "work/store")
        assert look(repository).message == "trained: 20 new pairs"
        return
    assert look(repository).message == "nothing new: 4 new pairs, fewer than 5"
    assert worktrees(repository) == []
    add_pairs(repository, "fourth", 1)
    save(repository, "And one")
    assert look(repository).message == "trained: 5 new pairs"


def test_pairs_of_a_branch_that_is_gone_are_new_again(repository: Path, tmp_path: Path) -> None:
    add_pairs(repository, "second", 6)
    save(repository, "Six more pairs")
    look(repository)
    (branch,) = branches(repository)
    for place in (repository, tmp_path / "origin.git"):
        git(place, "branch", "--delete", "--force", branch)
    add_pairs(repository, "third", 1)
    save(repository, "And one")
    assert look(repository).message == "trained: 7 new pairs"


def test_a_stage_that_is_stale_by_itself_is_trained_once_where_that_is_asked_for(repository: Path) -> None:
    (repository / "params.yaml").write_text(PARAMS.replace("x: 1", "x: 2"))
    save(repository, "Another x")
    assert look(repository).message == "nothing new: the data is that of dvc.lock"
    result = look(repository, also_stale=True).result()
    assert (result.status, result.why, result.new_pairs) == ("trained", "stale: train", 0)
    assert branches(repository) == [result.branch]
    assert result.branch != f"retrain/{result.data_version}"
    assert said(repository, "show", "--name-only", "--format=%s", result.branch).split("\n\n") == [
        f"Retrain what is stale: train (data {result.data_version})",
        "dvc.lock",
    ]
    again = look(repository, also_stale=True).result()
    assert (again.why, again.branch) == (f"branch {result.branch} was trained on it", result.branch)
    (repository / "train.py").write_text(TRAIN + "# edited\n")
    save(repository, "Code alone, which the plan counts, too")
    assert look(repository, also_stale=True).message == "trained: stale: train"
    (second,) = set(branches(repository)) - {again.branch}
    git(repository, "merge", "--quiet", "--ff-only", second)
    done = look(repository, also_stale=True)
    assert done.message == "nothing new: the data is that of dvc.lock, and no stage is stale"


def test_new_data_beside_a_stale_stage_neither_hide_it_nor_count_as_such(repository: Path) -> None:
    add_pairs(repository, "second", 4)
    save(repository, "Four more pairs")
    for _ in range(2):  # the second time `ingest` comes from the run cache
        assert look(repository, also_stale=True).message == "nothing new: 4 new pairs, fewer than 5"
    (repository / "params.yaml").write_text(PARAMS.replace("x: 1", "x: 2"))
    save(repository, "Another x")
    state = look(repository, also_stale=True)
    assert state.message == "trained: 4 new pairs, stale: train"
    assert look(repository, also_stale=True).result().branch == state.result().branch
    assert look(repository).message == "nothing new: 0 new pairs, fewer than 5"


def test_rows_appended_to_a_versioned_prefix_are_found(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server.serving(monkeypatch, "feedback") as server:
        versioned = {"Status": "Enabled"}
        server.client.put_bucket_versioning(Bucket="feedback", VersioningConfiguration=versioned)
        put(server, "a", 10)
        words = ["import-url", "--quiet", "--version-aware", "s3://feedback/pairs", "data/raw/pairs"]
        dvc(repository, *words)
        dvc(repository, "repro", "--quiet")
        dvc(repository, "push", "--quiet", "--run-cache")
        save(repository, "The bucket's pairs")
        assert look(repository, push=False).name == "NothingNew"
        put(server, "b", 100)
        state = look(repository, push=False)
        assert state.message == "trained: 100 new pairs"
        (branch,) = branches(repository)
        changed = said(repository, "show", "--name-only", "--format=", branch).split()
        assert changed == ["data/raw/pairs.dvc", "dvc.lock"]
        assert look(repository, push=False).message == f"nothing new: branch {branch} was trained on it"


def put(server: s3_server.Server, name: str, count: int) -> None:
    rows = "".join(json.dumps({"id": f"{name}-{i}"}) + "\n" for i in range(count))
    server.client.put_object(Bucket="feedback", Key=f"pairs/{name}.jsonl", Body=rows.encode())


def test_the_command_writes_its_summary_and_ends_well(repository: Path, prefect_api: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows.retrain", "--repository", str(repository), "--summary", str(tmp_path / "s")]
    command.append("--also-stale")
    env = {**os.environ, "PREFECT_API_URL": prefect_api}
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "s").read_text())["why"] == "the data is that of dvc.lock, and no stage is stale"
    words = ["--summary", str(tmp_path / "t"), "--repository", str(tmp_path)]
    done = subprocess.run([*command, *words], env=env, check=False)
    assert done.returncode == 1
    assert json.loads((tmp_path / "t").read_text())["why"].startswith("config: `git rev-parse HEAD`")
