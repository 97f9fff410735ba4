"""Git tags in GTO's form for what the registry promotes, and DVC's own commands that find it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.errors import RegistryError
from tasks.registry.cli.gto_tags import ARTIFACT, tag
from tasks.registry.gate.gate import GateConfig
from tasks.registry.release.lineage import stage_hashes
from tasks.registry.release.release import register
from tasks.registry.versions.manifest import LINEAGE, Candidate
from tasks.registry.versions.registry import Registry
from tests.conftest import ROOT
from tests.registry.samples import sample, scores_of

DVC_YAML = f"""
stages:
  train:
    cmd: mkdir -p models/adapter && cp weights models/adapter/weights
    deps: [weights]
    outs: [models/adapter]
artifacts:
  {ARTIFACT}:
    path: models/adapter
    type: model
"""


def run(folder: Path, *words: str) -> str:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    env |= {
        f"GIT_{who}_{what}": "somebody@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose one stage was run, and whose dvc.lock is committed."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    (tmp_path / "gitconfig").write_text("[user]\n\tname = Somebody\n\temail = somebody@example.org\n")
    folder = tmp_path / "checkout"
    folder.mkdir()
    run(folder, "git", "init", "--quiet", "--initial-branch=main")
    run(folder, sys.executable, "-m", "dvc", "init", "--quiet")
    run(folder, sys.executable, "-m", "dvc", "remote", "add", "--default", "--quiet", "store", str(tmp_path / "store"))
    (folder / "dvc.yaml").write_text(DVC_YAML)
    trained(folder, "first")
    return folder


def trained(folder: Path, weights: str) -> None:
    (folder / "weights").write_text(weights)
    run(folder, sys.executable, "-m", "dvc", "repro", "--quiet")
    run(folder, sys.executable, "-m", "dvc", "push", "--quiet")
    run(folder, "git", "add", ".")
    run(folder, "git", "commit", "--quiet", "-m", weights)


def release(registry: Registry, checkout: Path, seed: int = 0) -> str:
    candidate, evidence = sample(seed, scores_of(80 + 10 * seed, losses=20 - 10 * seed))
    papers = json.loads(candidate.files[LINEAGE]) | {"stages": stage_hashes((checkout / "dvc.lock").read_text())}
    candidate = Candidate(candidate.identity, {**candidate.files, LINEAGE: json.dumps(papers).encode()})
    return register(registry, candidate, evidence, "champion", GateConfig()).digest


@pytest.mark.e2e
def test_dvc_finds_what_was_promoted_by_its_tags(registry: Registry, checkout: Path, tmp_path: Path):
    first = release(registry, checkout)
    assert tag(registry, first, "champion", checkout) == [f"{ARTIFACT}#champion#1", f"{ARTIFACT}@v1.0.0"]
    assert tag(registry, first, "champion", checkout) == []
    trained(checkout, "second")
    with pytest.raises(RegistryError, match="HEAD does not hold the adapter of version"):
        tag(registry, first, "champion", checkout)
    second = release(registry, checkout, seed=1)
    assert tag(registry, second, "champion", checkout) == [f"{ARTIFACT}#champion#2", f"{ARTIFACT}@v2.0.0"]
    for words, weights in ((["--stage", "champion"], "second"), (["--rev", "v1.0.0"], "first")):
        target = tmp_path / weights
        command = [sys.executable, "-m", "dvc", "artifacts", "get", str(checkout), ARTIFACT, *words]
        run(tmp_path, *command, "--out", str(target))
        assert (target / "weights").read_text() == weights
    run(checkout, "git", "checkout", "--quiet", "HEAD~1")  # back to the first: what a rollback's tag is made at
    assert tag(registry, first, "champion", checkout) == [f"{ARTIFACT}#champion#3"]


@pytest.mark.e2e
def test_a_promotion_that_cannot_be_tagged_changes_nothing(command, registry: Registry, checkout: Path, monkeypatch):
    release(registry, checkout)
    (checkout / "dvc.lock").write_text("stages: {}\n")
    run(checkout, "git", "commit", "--quiet", "-am", "another lock")
    monkeypatch.chdir(checkout)
    status, _, error = command("promote", "demo@v1", "--alias", "staging", "--tag")
    assert (status, "commit dvc.lock as that run left it" in error) == (1, True)
    assert registry.history().aliases() == {"champion": registry.find("v1")}


def test_the_projects_own_dvc_yaml_names_the_artifact():
    from ruamel.yaml import YAML

    told = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["artifacts"]
    assert told[ARTIFACT]["path"] == "models/adapter"
