"""Whose registry a relative `register.root` means: the main checkout's, from worktrees and experiments, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.registry.__main__ import main
from tasks.registry.stores.folder import FolderStore
from tasks.registry.stores.main_checkout import main_checkout
from tasks.registry.stores.open_store import open_store
from tests.flows.conftest import git


@pytest.fixture
def main_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose project lies in a folder of its own; the test stands in that folder."""
    project = tmp_path / "main" / "project"
    project.mkdir(parents=True)
    (project / "params.yaml").write_text("register: {name: demo, root: models/registry}\n")
    git(tmp_path / "main", "init", "--quiet")
    git(tmp_path / "main", "add", ".")
    git(tmp_path / "main", "commit", "--quiet", "--message", "A project")
    monkeypatch.chdir(project)
    return project


def test_the_main_checkout_stands_for_itself_and_its_registry_keeps_its_short_name(main_folder: Path):
    assert main_checkout() == main_folder
    assert open_store("models/registry").label == "models/registry"


def test_a_worktree_stands_for_the_same_folder_of_the_main_checkout(
    main_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    git(main_folder, "worktree", "add", "--quiet", str(tmp_path / "tree"))
    monkeypatch.chdir(tmp_path / "tree" / "project")
    assert main_checkout() == main_folder
    assert open_store("models/registry").label == str(main_folder / "models/registry")
    (tmp_path / "deeper").symlink_to(tmp_path / "tree")
    monkeypatch.chdir(tmp_path / "deeper" / "project")
    assert main_checkout() == main_folder


def test_an_experiment_stands_for_the_project_that_started_it_also_from_a_worktree(
    main_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    git(main_folder, "worktree", "add", "--quiet", str(tmp_path / "tree"))
    (tmp_path / "of-dvc").mkdir()
    monkeypatch.chdir(tmp_path / "of-dvc")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "tree" / "project"))
    assert main_checkout() == tmp_path / "of-dvc", "DVC sets its root for every stage, in experiments or not"
    monkeypatch.setenv("DVC_EXP_NAME", "trial")
    assert main_checkout() == main_folder


def test_clones_submodules_and_worktrees_of_a_bare_repository_stand_for_themselves(
    main_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    git(tmp_path, "clone", "--quiet", str(tmp_path / "main"), "clone")
    git(tmp_path, "clone", "--quiet", "--bare", str(tmp_path / "main"), "bare.git")
    git(tmp_path / "bare.git", "worktree", "add", "--quiet", str(tmp_path / "of-bare"), "HEAD")
    add = ("-c", "protocol.file.allow=always", "submodule", "add", "--quiet", str(tmp_path / "main"), "sub")
    git(tmp_path / "clone", *add)
    for folder in ("clone", "of-bare", "clone/sub"):
        monkeypatch.chdir(tmp_path / folder / "project")
        assert main_checkout() == tmp_path / folder / "project"


def test_a_root_on_the_command_line_is_relative_to_where_the_person_stands(
    main_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    git(main_folder, "worktree", "add", "--quiet", str(tmp_path / "tree"))
    monkeypatch.chdir(tmp_path / "tree" / "project")
    assert main(["list"]) == 1
    assert f"there is no registry in {main_folder / 'models/registry'}" in capsys.readouterr().err
    FolderStore(Path("mine")).put("demo/log/00000000.json", b"")
    assert main(["list", "--root", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
