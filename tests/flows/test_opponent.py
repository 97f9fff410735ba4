"""The opponent of a new adapter is pinned once the adapter is trained, resolved by `adapters`, and never itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.evaluate_only import evaluate_only
from flows.pipeline import pipeline
from tasks.registry.gate.gate import GateConfig
from tasks.registry.release.release import register
from tasks.registry.stores.folder import FolderStore
from tasks.registry.versions.registry import Registry
from tests.conftest import DVC_CONFIG
from tests.flows.conftest import ROOT, dvc, git
from tests.registry.samples import sample, scores_of

STAGE = """
import pathlib, sys

stage = sys.argv[1]
lines = pathlib.Path("params.yaml").read_text().splitlines()
value = {line.split(":")[0].strip(): line.partition(":")[2].strip() for line in lines}


def write(path, data):
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(path).write_bytes(data)


if stage == "adapters":
    write("data/adapters/init/source", b"")
    write("data/adapters/champion/source", value["champion"].encode())
    if pathlib.Path("broken").exists():
        sys.exit(1)
if stage == "train":
    write("models/adapter/adapter_model.safetensors", pathlib.Path(f"weights-{value['seed']}").read_bytes())
if stage == "respond":
    write("data/responses/champion", pathlib.Path("data/adapters/champion/source").read_bytes())
with pathlib.Path("runs.txt").open("a") as stream:
    print(stage, file=stream)
"""

DVC_YAML = """
stages:
  adapters:
    cmd: python stage.py adapters
    deps: [stage.py]
    params: [respond.champion]
    outs: [data/adapters/init, data/adapters/champion]
  train:
    cmd: python stage.py train
    deps: [stage.py, data/adapters/init]
    params: [train]
    outs: [models/adapter]
  respond:
    cmd: python stage.py respond
    deps: [stage.py, models/adapter, data/adapters/champion]
    params: [respond]
    outs: [data/responses]
"""

PARAMS = "train:\n  seed: 0\nrespond:\n  champion: null\nregister:\n  name: demo\n  root: registry\n"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_api: str) -> Path:
    """A project whose stages ran once, with the weights 0; the registry's champion has the weights 1."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = tmp_path / "project"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").write_text(DVC_CONFIG)
    files = {"stage.py": STAGE, "dvc.yaml": DVC_YAML, "params.yaml": PARAMS}
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / ".gitignore").write_text("/data/\n/models/\n/runs/\n/runs.txt\n")
    for seed in (0, 1, 2):
        (folder / f"weights-{seed}").write_bytes(sample(seed)[0].files["adapter_model.safetensors"])
    git(folder, "init", "--quiet")
    dvc(folder, "repro", "--quiet")
    (folder / "runs.txt").unlink()
    return folder


def release(workspace: Path, seed: int) -> str:
    """Register the adapter with the weights ``seed`` and make it champion; return what pins it."""
    registry = Registry(FolderStore(workspace / "registry"), "demo")
    return (
        f"registry:demo@{register(registry, *sample(seed, scores_of(90, losses=10)), 'champion', GateConfig()).digest}"
    )


def train_with(workspace: Path, seed: int) -> None:
    path = workspace / "params.yaml"
    path.write_text(path.read_text().replace("seed: 0", f"seed: {seed}"))


def stages_run(workspace: Path) -> list[str]:
    path = workspace / "runs.txt"
    return path.read_text().split() if path.exists() else []


def champion_of(workspace: Path) -> str:
    return (workspace / "data/responses/champion").read_text()


def test_the_adapter_that_stood_before_training_is_the_new_one_s_opponent(workspace: Path) -> None:
    champion = release(workspace, 0)  # which models/adapter still holds when the run starts
    train_with(workspace, 1)
    state = pipeline(workspace, opponent="demo@champion", return_state=True)
    assert state.is_completed(), state.message
    assert champion_of(workspace) == champion
    assert stages_run(workspace) == ["train", "adapters", "respond"], "a champion resolved does not train again"
    again = pipeline(workspace, opponent="demo@champion", return_state=True)
    assert again.message == "3 unchanged"


def test_the_adapter_that_was_just_trained_is_not_its_own_opponent(workspace: Path) -> None:
    release(workspace, 1)
    train_with(workspace, 1)
    state = pipeline(workspace, opponent="demo@champion", return_state=True)
    assert state.is_completed(), state.message
    assert champion_of(workspace) == "null"
    assert stages_run(workspace) == ["train", "respond"]


def test_evaluating_alone_meets_another_opponent_and_trains_nothing(workspace: Path) -> None:
    champion = release(workspace, 1)
    state = evaluate_only(workspace, opponent="demo@champion", return_state=True)
    assert state.is_completed(), state.message
    assert champion_of(workspace) == champion
    assert stages_run(workspace) == ["adapters", "respond"]
    train_with(workspace, 2)
    refused = evaluate_only(workspace, return_state=True)
    assert refused.message is not None
    assert "`train` is not up to date: train.seed: 0 → 2" in refused.message
    assert stages_run(workspace) == ["adapters", "respond"]


def test_nothing_is_evaluated_where_the_opponent_cannot_be_resolved(workspace: Path) -> None:
    release(workspace, 1)
    (workspace / "broken").touch()
    state = evaluate_only(workspace, opponent="demo@champion", return_state=True)
    assert state.message is not None
    assert state.message.startswith("stage `adapters` failed (bug)")
    assert stages_run(workspace) == []
