"""`train.init_adapter`: the adapter that training continues from is pinned by `reference` and trained by `train`."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from tasks import reference, train
from tasks.core.errors import ConfigError, RegistryError
from tasks.core.files import read_json, sha256_file
from tasks.dpo.model.adapter_files import CONFIG, WEIGHTS, AdapterFiles
from tasks.registry.gate.gate import GateConfig
from tasks.registry.release.release import register
from tasks.registry.stores.folder import FolderStore
from tasks.registry.versions.registry import Registry
from tests import s3_server
from tests.dpo import tiny
from tests.registry.samples import sample, sha
from tests.stages import project


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, as the current folder, with an adapter beside it."""
    root = project.build(tmp_path / "project")
    tiny.adapter_bytes(tiny.moved(tiny.policy()), root / "adapters/sft")
    monkeypatch.chdir(root)
    return root


def settle(root: Path, word: object, **train_values: Any) -> None:
    """Write params.yaml with ``word`` as `train.init_adapter`."""
    project.write_params(root, init_adapter=word, **train_values)
    text = YAML(typ="safe", pure=True)
    document = text.load((root / "params.yaml").read_text())
    with (root / "params.yaml").open("w") as stream:
        text.dump({**document, "register": {"name": "demo", "root": "registry"}}, stream)


def manifest(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(root / "data/reference/manifest.json")
    return found


def test_reference_and_policy_are_that_adapter_and_the_first_loss_is_ln_2(root: Path):
    reference.main()
    of_base = np.load(root / "data/reference/train.logps.npy")
    settle(root, "adapters/sft")
    reference.main()
    own = np.load(root / "data/reference/train.logps.npy")
    assert np.abs(own - of_base).max() > 0.1
    found = manifest(root)
    assert found["init_adapter"] == "adapters/sft"
    assert set(found["inputs"]) == {"base", "train_tokens", "test_tokens", "adapter"}
    for name in (WEIGHTS, CONFIG):
        assert sha256_file(root / "data/reference/adapter" / name) == sha256_file(root / "adapters/sft" / name)
    train.main()
    metrics = read_json(root / "results/train/metrics.json")
    assert metrics["before"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics["after"]["loss"] < math.log(2)
    shutil.rmtree(root / "adapters")  # what was pinned is enough
    train.main()
    assert read_json(root / "results/train/metrics.json") == metrics


def test_rows_of_the_base_and_of_each_adapter_are_kept_apart(root: Path):
    kept = []
    tiny.adapter_bytes(tiny.moved(tiny.policy(), seed=5), root / "adapters/other")
    for word in (None, "adapters/sft", "adapters/other", "adapters/sft", None):
        settle(root, word)
        reference.main()
        notes = read_json(root / "runs/receipts/reference.json")["notes"]
        kept.append((notes["pairs_scored"], np.load(root / "data/reference/train.logps.npy")))
    assert [scored for scored, _ in kept] == [19, 19, 19, 0, 0]
    assert np.array_equal(kept[0][1], kept[4][1])
    assert np.array_equal(kept[1][1], kept[3][1])
    assert np.abs(kept[1][1] - kept[2][1]).max() > 0.1


def fails(stage: Any, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a stage's main and return its one line of error."""
    with pytest.raises(SystemExit):
        stage.main()
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if "] error: " in line]
    return line


def test_training_refuses_a_reference_of_another_start(root: Path, capsys: pytest.CaptureFixture[str]):
    reference.main()
    settle(root, "adapters/sft")
    assert "with the adapter switched off, `train.init_adapter` is adapters/sft — run `dvc repro" in fails(
        train, capsys
    )
    reference.main()
    settle(root, None)
    assert "with the adapter adapters/sft, `train.init_adapter` is null — run `dvc repro" in fails(train, capsys)


def test_an_adapter_that_changed_since_it_was_pinned_is_refused(root: Path, capsys: pytest.CaptureFixture[str]):
    settle(root, "adapters/sft")
    reference.main()
    tiny.adapter_bytes(tiny.moved(tiny.policy(), seed=5), root / "adapters/sft")
    said = fails(train, capsys)
    assert "since the reference stage pinned it — restore it, or pin it anew with `dvc repro -f reference`" in said


def test_an_adapter_of_another_shape_than_train_lora_is_refused_by_name(root: Path, capsys: pytest.CaptureFixture[str]):
    settle(root, "adapters/sft", lora={"rank": 8, "alpha": 8})
    reference.main()
    assert fails(train, capsys).endswith("`train.lora.rank` is 8, the adapter of `train.init_adapter` has 4 — write 4")


def find(root: Path, word: object) -> Any:
    settle(root, word)
    return reference.find_adapter(root / "params.yaml")


def test_no_key_null_and_no_section_are_the_base(root: Path):
    assert find(root, None) is None
    (root / "params.yaml").write_text("reference: {model: base}\n")
    assert reference.find_adapter(root / "params.yaml") is None


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("adapters/stf", "there is no folder adapters/stf — mend the path"),
        ("adapters", r"adapters holds no adapter_model.safetensors"),
        (3, "`train.init_adapter` is 3 — give a folder"),
        ("", "`train.init_adapter` is ''"),
        ("nobody", "is nobody, which is no version of the registry registry"),
    ],
)
def test_a_word_that_names_no_adapter_is_one_clear_error(root: Path, word: object, said: str):
    with pytest.raises(ConfigError, match=said):
        find(root, word)


def test_the_folder_that_training_itself_writes_is_refused(root: Path):
    shutil.copytree(root / "adapters/sft", root / "models/adapter")
    with pytest.raises(ConfigError, match="which the train stage itself writes — name the registry's version of it"):
        find(root, "models/adapter")


def released(root: Path, base: str) -> str:
    """Register the adapter in adapters/sft as `demo` and promote it; return the version's digest."""
    candidate, evidence = sample(base=base)
    files = {name: (root / "adapters/sft" / name).read_bytes() for name in (WEIGHTS, CONFIG)}
    hashes = {"weights": sha(files[WEIGHTS]), "adapter_config": sha(files[CONFIG])}
    identity = dataclasses.replace(candidate.identity, **hashes)
    candidate = dataclasses.replace(candidate, identity=identity, files={**candidate.files, **files})
    evidence = dataclasses.replace(evidence, version=candidate.digest)
    return register(
        Registry(FolderStore(root / "registry"), "demo"), candidate, evidence, "champion", GateConfig()
    ).digest


@pytest.fixture
def version(root: Path) -> str:
    return released(root, read_json(root / "data/base/manifest.json")["digest"])


@pytest.mark.parametrize("form", ["registry:demo@{}", "demo@{}", "{}"])
def test_a_version_of_the_registry_is_named_by_its_whole_digest(root: Path, version: str, form: str):
    found = find(root, form.format(version))
    assert found.digest == AdapterFiles.read(root / "adapters/sft", "x").digest
    shutil.rmtree(root / "adapters")
    reference.main()
    assert manifest(root)["init_adapter"] == form.format(version)
    assert manifest(root)["inputs"]["adapter"] == found.digest
    shutil.move(root / "registry", root / "elsewhere")  # training needs no registry
    train.main()
    assert read_json(root / "results/train/metrics.json")["before"]["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_a_version_in_a_bucket_is_trained_on_from(root: Path, version: str, monkeypatch: pytest.MonkeyPatch):
    with s3_server.serving(monkeypatch, "releases") as server:
        for path in (root / "registry").rglob("*.*"):
            if path.is_file():
                key = path.relative_to(root / "registry").as_posix()
                server.client.put_object(Bucket="releases", Key=f"team/{key}", Body=path.read_bytes())
        shutil.rmtree(root / "registry")
        settle(root, f"registry:demo@{version}")
        text = (root / "params.yaml").read_text()
        (root / "params.yaml").write_text(text.replace("root: registry", "root: s3://releases/team"))
        found = reference.find_adapter(root / "params.yaml")
        assert found is not None
        assert found.digest == AdapterFiles.read(root / "adapters/sft", "x").digest


@pytest.mark.parametrize("selector", ["champion", "v1", "", "prefix"])
def test_an_alias_a_serial_or_a_prefix_is_refused_with_its_digest(root: Path, version: str, selector: str):
    word = {"": "demo", "prefix": f"demo@{version[:10]}"}.get(selector, f"demo@{selector}")
    with pytest.raises(ConfigError, match=f"is {word}, which may name another version tomorrow — write demo@{version}"):
        find(root, word)


def test_a_digest_that_the_registry_lacks_and_an_alias_of_nobody_are_told(root: Path, version: str):
    for word in ("a" * 64, f"demo@{'a' * 64}"):
        with pytest.raises(ConfigError, match=f"registry holds no version {word}"):
            find(root, word)
    with pytest.raises(RegistryError, match="`nobody` has no versions in registry — names there: demo"):
        find(root, "nobody@champion")


def test_a_damaged_version_is_refused(root: Path, version: str):
    path = root / "registry/demo/versions" / version / WEIGHTS
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(RegistryError, match="does not have the SHA-256 of its manifest"):
        find(root, f"demo@{version}")


def test_a_version_of_another_base_is_refused(root: Path, capsys: pytest.CaptureFixture[str]):
    settle(root, f"demo@{released(root, 'f' * 64)}")
    assert fails(reference, capsys).endswith(
        f"was trained on another base (digest ffffffffffff) — choose that base in `base`, or an adapter of this one "
        f"({read_json(root / 'data/base/manifest.json')['digest'][:12]})"
    )
    assert not (root / "data/reference").exists()


def test_a_folder_that_says_it_is_of_another_base_is_refused(root: Path, capsys: pytest.CaptureFixture[str]):
    folder = root / "adapters/sft"
    (folder / "manifest.json").write_text(json.dumps({"inputs": {"base": "f" * 64}, "files": {}}))
    settle(root, "adapters/sft")
    assert "adapters/sft was trained on another base (digest ffffffffffff)" in fails(reference, capsys)
