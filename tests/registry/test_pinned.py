"""What a param may name of the registry, and the command that writes it there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flows.registry_commands import CHAMPION, INIT_ADAPTER, pin
from tasks.core.errors import ConfigError, RegistryError
from tasks.registry.gate.gate import GateConfig
from tasks.registry.release.release import promote, register
from tasks.registry.versions import pinned
from tasks.registry.versions.registry import Registry
from tests.conftest import ROOT
from tests.registry.samples import sample, scores_of

PARAMS = (ROOT / "params.yaml").read_text(encoding="utf-8")


@pytest.fixture
def digest(registry: Registry) -> str:
    return register(registry, *sample(0, scores_of(80, losses=20)), "champion", GateConfig()).digest


@pytest.mark.parametrize("form", ["registry:demo@{}", "demo@{}", "{}"])
def test_a_whole_digest_names_a_version(registry: Registry, digest: str, form: str):
    line, version = pinned.find_version(form.format(digest), registry.store, "respond.champion")
    assert (line.name, version) == ("demo", digest)


@pytest.mark.parametrize("word", ["demo@champion", "registry:demo@v1", "demo", "registry:demo"])
def test_what_moves_is_refused_with_the_digest_that_it_names_now(registry: Registry, digest: str, word: str):
    said = rf"`respond.champion` is {word}, which may name another version tomorrow — write demo@{digest}"
    with pytest.raises(ConfigError, match=said):
        pinned.find_version(word, registry.store, "respond.champion")


def test_a_digest_that_is_not_there_is_told(registry: Registry, digest: str):
    with pytest.raises(ConfigError, match="holds no version demo@99"):
        pinned.find_version(f"demo@{'9' * 64}", registry.store, "respond.champion")


@pytest.mark.parametrize(
    ("share", "seed", "is_refused"),
    [(0.1, 0, False), (0.05, 0, False), (0.2, 0, True), (0.1, 1, True), (0.05, 1, True), (None, 0, False)],
)
def test_a_parent_that_saw_what_is_held_out_now_is_refused(
    registry: Registry, share: float | None, seed: int, is_refused: bool
):
    candidate, evidence = sample(0, scores_of(80, losses=20))
    candidate.files["params.yaml"] = b"ingest: {test_share: 0.1, split_seed: 0}\n"
    parent = register(registry, candidate, evidence, "champion", GateConfig()).digest
    ingest = {"split_seed": seed} if share is None else {"test_share": share, "split_seed": seed}
    if not is_refused:
        pinned.refuse_leaking_split(registry, parent, ingest, "train.init_adapter")
        return
    said = rf"trained on prompts that are held out here: .* 0.1 with `split_seed` 0, here {share} with {seed}"
    with pytest.raises(ConfigError, match=said):
        pinned.refuse_leaking_split(registry, parent, ingest, "train.init_adapter")


def test_a_key_is_written_and_every_other_byte_stays(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS)
    assert pinned.pin(path, "respond.champion", f"registry:demo@{'a' * 64}") is True
    assert pinned.pin(path, "respond.champion", f"registry:demo@{'a' * 64}") is False
    before, after = PARAMS.splitlines(), path.read_text().splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [("  champion: null", f"  champion: registry:demo@{'a' * 64}")]
    assert pinned.pin(path, "respond.champion", None) is True
    assert path.read_text() == PARAMS
    assert pinned.pin(path, "train.init_adapter", "registry:x@y") is True
    with pytest.raises(ConfigError, match=r"has no key `respond\.challenger`"):
        pinned.pin(path, "respond.challenger", None)
    with pytest.raises(ConfigError, match=r"has no key `responder\.champion`"):
        pinned.pin(path, "responder.champion", None)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "params.yaml").write_text(PARAMS)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


def line(workspace: Path, key: str) -> str:
    rows = (workspace / "params.yaml").read_text().splitlines()
    return next(row.strip() for row in rows if row.startswith(f"  {key}:"))


def test_the_flow_pins_the_champion_that_there_is_and_none_before_the_first(
    workspace: Path, registry: Registry, digest: str
):
    assert "was already null" in pin(workspace, CHAMPION, "demo@champion")
    shutil.move(registry.store.label, workspace / "models/registry")
    assert f"registry:demo@{digest}" in pin(workspace, CHAMPION, "demo@champion")
    assert line(workspace, "champion") == f"champion: registry:demo@{digest}"
    assert f"registry:demo@{digest}" in pin(workspace, INIT_ADAPTER, "demo@champion")
    with pytest.raises(RegistryError, match="`demo@staging` names no version"):
        pin(workspace, INIT_ADAPTER, "demo@staging")


def test_a_damaged_registry_is_not_taken_for_one_without_a_champion(workspace: Path, registry: Registry, digest: str):
    shutil.move(registry.store.label, workspace / "models/registry")
    entry = workspace / "models/registry/demo/log/00000002.json"
    entry.chmod(0o644)
    entry.write_text("torn")
    with pytest.raises(RegistryError, match="is not a log entry"):
        pin(workspace, CHAMPION, "demo@champion")
    assert line(workspace, "champion") == "champion: null"


def test_the_adapter_that_was_just_released_is_not_its_own_opponent(workspace: Path, registry: Registry, digest: str):
    shutil.move(registry.store.label, workspace / "models/registry")
    (workspace / "models/adapter").mkdir()
    weights = workspace / "models/adapter/adapter_model.safetensors"
    weights.write_bytes(sample(0)[0].files["adapter_model.safetensors"])
    assert "itself: nothing is pinned" in pin(workspace, CHAMPION, "demo@champion")
    assert line(workspace, "champion") == "champion: null"
    weights.write_bytes(b"another adapter")
    pin(workspace, CHAMPION, "demo@champion")
    assert line(workspace, "champion") == f"champion: registry:demo@{digest}"


def test_the_pin_command_says_what_it_wrote(command, registry: Registry, digest: str, workspace: Path, monkeypatch):
    monkeypatch.chdir(workspace)
    told = command("pin", "respond.champion", "demo@v1", "--json")[1]
    assert told == {"changed": True, "key": "respond.champion", "value": f"registry:demo@{digest}"}
    assert json.dumps(told)
    other = register(registry, *sample(1, scores_of(90, losses=10)), "champion", GateConfig()).digest
    promote(registry, other, "champion", override="newer")
    assert (
        command("pin", "respond.champion", "demo@champion")[1].strip() == f"respond.champion is registry:demo@{other}"
    )
    assert command("pin", "respond.champion", "demo@champion")[1].strip().startswith("respond.champion was already")
