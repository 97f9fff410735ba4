"""The register stage as DVC runs it: its output is true only where the registry holds the version."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flows.dvc_project.forecast import forecast
from flows.dvc_project.graph import staleness_of
from tasks.core.params import load_params
from tests import s3_server
from tests.conftest import DVC_CONFIG, ROOT
from tests.stages.laid_out import lay

pytestmark = pytest.mark.e2e

PARAMS = {"register": {"name": "demo", "root": "models/registry", "gate": {"alpha": 0.05, "margin": 0.0}}}


class Project:
    """A checkout with the one stage `register`; git holds what the stages before it write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *words: str) -> str:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        who = {f"GIT_{role}_{key}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
        env = {**os.environ, **who, "PATH": path, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(words, cwd=self.folder, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def git(self, *words: str) -> str:
        return self.run("git", *words)

    def dvc(self, *words: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *words)

    def repro(self) -> str:
        """The log line of the stage in a run of `dvc repro`."""
        return next(
            (line for line in self.dvc("repro").splitlines() if line.startswith("[register]")), "it did not run"
        )

    def registration(self) -> dict[str, Any]:
        return json.loads((self.folder / "results/register/registration.json").read_bytes())

    def log(self) -> list[str]:
        """What the registry's log holds, read from this checkout."""
        entries = json.loads(self.run(sys.executable, "-m", "tasks.registry", "log", "demo", "--json"))
        return [entry["action"] for entry in entries]

    def set_margin(self, margin: float) -> None:
        params = {"register": {**PARAMS["register"], "gate": {"alpha": 0.05, "margin": margin}}}
        (self.folder / "params.yaml").write_text(json.dumps(params))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as git has it, of which nothing ran; only to be copied."""
    project = Project(tmp_path_factory.mktemp("built") / "work" / "project")
    lay(project.folder)
    stage = load_params(ROOT / "dvc.yaml")["stages"]["register"]
    stage |= {"deps": [dep for dep in stage["deps"] if not dep.startswith("tasks/")], "params": ["register"]}
    (project.folder / "dvc.yaml").write_text(json.dumps({"stages": {"register": stage}}))
    project.set_margin(0.0)
    (project.folder / ".dvc").mkdir()
    (project.folder / ".dvc/config").write_text(DVC_CONFIG)
    (project.folder / ".dvc/.gitignore").write_text("/tmp\n/cache\n/config.local\n")
    (project.folder / ".gitignore").write_text("/models/registry\n/results/register\n/runs\n")
    project.git("init", "--quiet", "--initial-branch", "main")
    project.git("add", ".")
    project.git("commit", "--quiet", "--message", "What the other stages wrote")
    return project.folder


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Project:
    """A copy of the project with a remote of its own."""
    shutil.copytree(built.parent, tmp_path / "work", symlinks=True)
    return Project(tmp_path / "work/project")


@pytest.fixture
def registered(project: Project) -> Project:
    """The project after `dvc repro`, committed and pushed."""
    assert "recorded and promoted to `champion`" in project.repro()
    project.dvc("push", "--quiet", "--run-cache")
    project.git("add", ".")
    project.git("commit", "--quiet", "--message", "Registered")
    return project


def test_a_second_run_asks_the_registry_and_changes_nothing(registered: Project) -> None:
    lock, log = (registered.folder / "dvc.lock").read_bytes(), registered.log()
    began = time.monotonic()
    assert "was recorded before and promoted to `champion`" in registered.repro()
    assert time.monotonic() - began < 20
    assert (registered.folder / "dvc.lock").read_bytes() == lock
    assert (registered.log(), registered.git("status", "--porcelain")) == (log, "")
    assert staleness_of(registered.folder, "register").why == ""
    assert [step.forecast for step in forecast(registered.folder)] == ["unchanged"]


def test_a_clone_that_pulled_the_output_registers_in_its_own_registry(registered: Project, tmp_path: Path) -> None:
    registered.git("clone", "--quiet", str(registered.folder), str(tmp_path / "work/clone"))
    clone = Project(tmp_path / "work/clone")
    clone.dvc("pull", "--quiet", "--run-cache")
    assert clone.registration() == registered.registration(), "a claim that is not true here"
    (step,) = forecast(clone.folder)
    assert (step.forecast, step.is_stale) == ("ask", False)
    assert "is not registered: there is no registry in models/registry" in step.why
    assert "recorded and promoted" in clone.repro()
    assert clone.log() == ["register", "promote"]


def test_a_registry_that_was_deleted_is_filled_again(registered: Project) -> None:
    shutil.rmtree(registered.folder / "models/registry")
    assert "recorded and promoted" in registered.repro()
    assert registered.log() == ["register", "promote"]


def test_a_git_worktree_has_the_registry_of_the_main_checkout(registered: Project, tmp_path: Path) -> None:
    registered.git("worktree", "add", "--quiet", str(tmp_path / "elsewhere"))
    worktree = Project(tmp_path / "elsewhere")
    assert "was recorded before" in worktree.repro()
    assert worktree.log() == registered.log() == ["register", "promote"]
    assert not (worktree.folder / "models/registry").exists()


@pytest.mark.parametrize("way", ["in the workspace", "--temp", "--queue"])
def test_an_experiment_is_judged_and_spends_no_look(project: Project, way: str) -> None:
    words = ["exp", "run", "--name", "trial", "--set-param", "register.gate.margin=0.1"]
    shown = project.dvc(*words, *([way] if way.startswith("--") else []))
    if way == "--queue":
        project.dvc("exp", "run", "--run-all")
    else:
        assert "not registered by an experiment (the gate says promote" in shown
    assert not (project.folder / "models/registry").exists()

    project.git("checkout", "--quiet", "--force", "--detach", "refs/" + trial_of(project))
    project.dvc("checkout", "--quiet")
    entry = project.registration()
    assert (entry["registered"], entry["serial"], entry["promoted"]) == (False, None, False)
    assert "recorded and promoted" in project.repro(), "what was tried is registered where it is run for good"
    assert project.registration()["registered"] is True


def test_an_experiment_that_is_told_to_registers_in_the_main_checkout(registered: Project) -> None:
    shutil.rmtree(registered.folder / "models/registry")
    registered.dvc("exp", "run", "--temp", "--set-param", "+register.in_experiments=true")
    assert registered.log() == ["register", "promote"]


def test_what_an_experiment_says_of_a_registered_version_is_the_registrys_word(registered: Project) -> None:
    shown = registered.dvc("exp", "run", "--temp", "--set-param", "register.gate.margin=0.1")
    assert "demo v1" in shown
    assert "was recorded before and promoted" in shown
    assert registered.log() == ["register", "promote"]


def test_a_bucket_that_lost_the_version_gets_it_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server.serving(monkeypatch, "team") as bucket:
        text = (project.folder / "params.yaml").read_text()
        (project.folder / "params.yaml").write_text(text.replace("models/registry", "s3://team/models"))
        assert "recorded and promoted" in project.repro()
        assert "was recorded before" in project.repro()
        for key in bucket.names("team"):
            bucket.client.delete_object(Bucket="team", Key=key)
        assert "recorded and promoted" in project.repro()


def trial_of(project: Project) -> str:
    """The name of the one experiment's reference, without `refs/`."""
    (name,) = [
        line.removeprefix("refs/")
        for line in project.git("for-each-ref", "--format=%(refname)", "refs/exps").split()
        if line.endswith("/trial")
    ]
    return name
