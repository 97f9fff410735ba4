"""The stage `adapters`: what params.yaml names becomes a checked folder, which the stages behind it read."""

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

from tasks import adapters, reference, train
from tasks.core.errors import ArtifactError, ConfigError, RegistryError
from tasks.core.files import read_json, sha256_file, verify_manifest
from tasks.core.pinned_adapter import CONFIG, WEIGHTS, PinnedAdapter, adapter_digest
from tasks.registry.gate.gate import GateConfig
from tasks.registry.release.release import register
from tasks.registry.stores.folder import FolderStore
from tasks.registry.versions.registry import Registry
from tests import s3_server
from tests.dpo import tiny
from tests.registry.samples import sample, sha
from tests.stages import project

INIT, CHAMPION = Path("data/adapters/init"), Path("data/adapters/champion")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, as the current folder, with an adapter beside it."""
    root = project.build(tmp_path / "project")
    tiny.adapter_bytes(tiny.moved(tiny.policy()), root / "adapters/sft")
    monkeypatch.chdir(root)
    return root


def write_params(root: Path, init: object, champion: object = None, registry: str = "registry", **train: Any) -> None:
    """Write params.yaml with these words as `train.init_adapter` and `respond.champion`."""
    project.write_params(root, init_adapter=init, **train)
    yaml = YAML(typ="safe", pure=True)
    document = yaml.load((root / "params.yaml").read_text())
    document |= {"register": {"name": "demo", "root": registry}, "respond": {"champion": champion}}
    with (root / "params.yaml").open("w") as stream:
        yaml.dump(document, stream)


def pin(root: Path, init: object, champion: object = None, **more: Any) -> None:
    """Write params.yaml and run the stage, whose errors come through as they are."""
    write_params(root, init, champion, **more)
    adapters.run(adapters.Folders(), adapters.AdaptersConfig.read(root / "params.yaml"))


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(folder / "manifest.json")
    return content


def test_where_params_name_no_adapter_there_is_a_manifest_that_says_so(root: Path):
    shutil.rmtree(root / "data/adapters")
    write_params(root, None)
    adapters.main()
    for folder in (INIT, CHAMPION):
        assert [path.name for path in folder.iterdir()] == ["manifest.json"]
        assert manifest(folder) == {"stage": "adapters", "source": None, "files": {}}
        assert PinnedAdapter.open(folder, "f" * 64) is None
    (root / "params.yaml").write_text("reference: {model: base}\n")
    assert adapters.AdaptersConfig.read(root / "params.yaml").init_adapter is None, "no section, no adapter"


def test_a_folder_becomes_two_files_and_a_manifest(root: Path):
    pin(root, "adapters/sft")
    assert sorted(path.name for path in INIT.iterdir()) == [CONFIG, WEIGHTS, "manifest.json"]
    for name in (WEIGHTS, CONFIG):
        assert sha256_file(INIT / name) == sha256_file(root / "adapters/sft" / name)
    facts = {"source": "adapters/sft", "digest": adapter_digest(INIT), "base": None, "name": None, "version": None}
    assert {key: value for key, value in manifest(INIT).items() if key != "files"} == {"stage": "adapters", **facts}
    verify_manifest(INIT, "adapters")


def test_a_new_champion_leaves_the_other_folder_as_it_was(root: Path, version: str):
    pin(root, "adapters/sft")
    before = project.contents(INIT)
    pin(root, "adapters/sft", f"demo@{version}")
    assert project.contents(INIT) == before
    assert manifest(CHAMPION)["version"] == version


def test_reference_and_policy_are_that_adapter_and_the_first_loss_is_ln_2(root: Path):
    reference.main()
    of_base = np.load(root / "data/reference/train.logps.npy")
    pin(root, "adapters/sft")
    reference.main()
    of_adapter = np.load(root / "data/reference/train.logps.npy")
    assert np.abs(of_adapter - of_base).max() > 0.1
    assert manifest(root / "data/reference")["inputs"]["adapter"] == manifest(INIT)["digest"]
    assert not (root / "data/reference/adapter").exists()
    train.main()
    metrics = read_json(root / "results/train/metrics.json")
    assert metrics["before"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics["after"]["loss"] < math.log(2)
    shutil.rmtree(root / "adapters")  # the pinned copy is enough
    train.main()
    assert read_json(root / "results/train/metrics.json") == metrics


def test_rows_of_the_base_and_of_each_adapter_are_kept_apart(root: Path):
    kept = []
    tiny.adapter_bytes(tiny.moved(tiny.policy(), seed=5), root / "adapters/other")
    for word in (None, "adapters/sft", "adapters/other", "adapters/sft", None):
        pin(root, word)
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
    pin(root, "adapters/sft")
    digest = manifest(INIT)["digest"][:12]
    said = f"was computed with no adapter, data/adapters/init holds the adapter {digest} — run `dvc repro reference`"
    assert said in fails(train, capsys)
    reference.main()
    pin(root, None)
    said = f"was computed with the adapter {digest}, data/adapters/init holds no adapter — run `dvc repro reference`"
    assert said in fails(train, capsys)


def test_training_refuses_an_adapter_that_params_do_not_name_any_more(root: Path, capsys: pytest.CaptureFixture[str]):
    pin(root, "adapters/sft")
    write_params(root, None)
    said = "data/adapters/init holds the adapter adapters/sft, `train.init_adapter` is null — run `dvc repro adapters`"
    assert said in fails(train, capsys)


@pytest.mark.parametrize("stage", [reference, train], ids=["reference", "train"])
def test_an_adapter_that_changed_since_it_was_pinned_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], stage: Any
):
    pin(root, "adapters/sft")
    reference.main()
    tiny.adapter_bytes(tiny.moved(tiny.policy(), seed=5), root / "adapters/sft")
    said = "since the adapters stage pinned it — restore it, or pin it anew with `dvc repro -f adapters`"
    assert said in fails(stage, capsys)


def test_a_damaged_pin_is_refused(root: Path, capsys: pytest.CaptureFixture[str]):
    pin(root, "adapters/sft")
    whole = (INIT / WEIGHTS).read_bytes()
    (INIT / WEIGHTS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "does not have the SHA-256 of its manifest" in fails(reference, capsys)


@pytest.mark.parametrize("stage", [reference, train])
def test_a_base_that_changed_since_the_adapter_was_pinned_is_refused(
    root: Path, stage: Any, capsys: pytest.CaptureFixture[str]
):
    base = read_json(root / "data/base/manifest.json")["digest"]
    (root / "adapters/sft/manifest.json").write_text(json.dumps({"inputs": {"base": base}, "files": {}}))
    pin(root, "adapters/sft")
    project.write_base(root, seed=1)  # a base of the same shape, by hand
    said = f"init holds an adapter of another base (digest {base[:12]}) — run `dvc repro adapters`"
    assert said in fails(stage, capsys)


def test_an_adapter_of_another_shape_than_train_lora_is_refused_by_name(root: Path, capsys: pytest.CaptureFixture[str]):
    pin(root, "adapters/sft", lora={"rank": 8, "alpha": 8})
    reference.main()
    assert fails(train, capsys).endswith("`train.lora.rank` is 8, the adapter of `train.init_adapter` has 4 — write 4")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("adapters/stf", "there is no folder adapters/stf — correct the path"),
        ("adapters", r"adapters holds no adapter_model.safetensors — save the adapter with PEFT there"),
        (3, "`train.init_adapter` is 3 — give a folder"),
        ("", "`train.init_adapter` is ''"),
        ("nobody", "is nobody, which is no version of the registry registry"),
    ],
)
def test_a_word_that_names_no_adapter_is_one_clear_error(root: Path, word: object, said: str):
    with pytest.raises(ConfigError, match=said):
        pin(root, word)


def test_a_section_that_is_no_mapping_is_one_clear_error(root: Path):
    (root / "params.yaml").write_text("train: [init_adapter]\n")
    with pytest.raises(ConfigError, match=r"`train` is \['init_adapter'\], not a mapping of keys"):
        adapters.AdaptersConfig.read(root / "params.yaml")


def test_a_champion_comes_from_the_registry_alone(root: Path):
    with pytest.raises(ConfigError, match=r"`respond.champion` is adapters/sft, which is no version of the registry"):
        pin(root, None, "adapters/sft")
    with pytest.raises(ConfigError, match=r"`respond.champion` is 3 — give"):
        pin(root, None, 3)


def test_the_folder_that_training_itself_writes_is_refused(root: Path):
    shutil.copytree(root / "adapters/sft", root / "models/adapter")
    with pytest.raises(ConfigError, match="which the train stage itself writes — name the registry's version of it"):
        pin(root, "models/adapter")


def test_a_pickled_adapter_is_not_read(root: Path):
    (root / "adapters/sft" / WEIGHTS).rename(root / "adapters/sft/adapter_model.bin")
    said = r"holds no adapter_model.safetensors \(pickles, as adapter_model.bin, are not read\)"
    with pytest.raises(ConfigError, match=said):
        pin(root, "adapters/sft")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        (WEIGHTS, b"\x80\x04pickle", "adapter_model.safetensors of adapters/sft cannot be read"),
        (WEIGHTS, b"", "adapter_model.safetensors of adapters/sft cannot be read"),
        (CONFIG, b"[1]", "adapter_config.json of adapters/sft is no JSON object"),
    ],
)
def test_a_damaged_file_is_refused_before_any_gpu_starts(root: Path, name: str, data: bytes, said: str):
    (root / "adapters/sft" / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=said):
        pin(root, "adapters/sft")


def released(root: Path, base: str, params: str = "train: {}\n") -> str:
    """Register the adapter in adapters/sft as `demo` and promote it; return the version's digest."""
    candidate, evidence = sample(base=base)
    files: dict[str, Any] = {name: (root / "adapters/sft" / name).read_bytes() for name in (WEIGHTS, CONFIG)}
    hashes = {"weights": sha(files[WEIGHTS]), "adapter_config": sha(files[CONFIG])}
    identity = dataclasses.replace(candidate.identity, **hashes)
    files |= {"params.yaml": params.encode()}
    candidate = dataclasses.replace(candidate, identity=identity, files={**candidate.files, **files})
    evidence = dataclasses.replace(evidence, version=candidate.digest)
    registry = Registry(FolderStore(root / "registry"), "demo")
    return register(registry, candidate, evidence, "champion", GateConfig()).digest


@pytest.fixture
def version(root: Path) -> str:
    return released(root, read_json(root / "data/base/manifest.json")["digest"])


@pytest.mark.parametrize("form", ["registry:demo@{}", "demo@{}", "{}"])
def test_a_version_of_the_registry_is_named_by_its_whole_digest(root: Path, version: str, form: str):
    word = form.format(version)
    pin(root, word, word)
    digest = adapter_digest(root / "adapters/sft")
    for folder in (INIT, CHAMPION):
        about = manifest(folder)
        assert (about["source"], about["name"], about["version"], about["digest"]) == (word, "demo", version, digest)
        assert about["base"] == read_json(root / "data/base/manifest.json")["digest"]
    shutil.rmtree(root / "adapters")
    shutil.move(root / "registry", root / "elsewhere")  # the stages behind need no registry
    reference.main()
    train.main()
    assert read_json(root / "results/train/metrics.json")["before"]["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_a_version_in_a_bucket_is_pinned(root: Path, version: str, monkeypatch: pytest.MonkeyPatch):
    with s3_server.serving(monkeypatch, "releases") as server:
        for path in (root / "registry").rglob("*.*"):
            if path.is_file():
                key = path.relative_to(root / "registry").as_posix()
                server.client.put_object(Bucket="releases", Key=f"team/{key}", Body=path.read_bytes())
        shutil.rmtree(root / "registry")
        pin(root, f"registry:demo@{version}", registry="s3://releases/team")
    assert adapter_digest(INIT) == adapter_digest(root / "adapters/sft")


@pytest.mark.parametrize("selector", ["champion", "v1", "", "prefix"])
def test_an_alias_a_serial_or_a_prefix_is_refused_with_its_digest(root: Path, version: str, selector: str):
    word = {"": "demo", "prefix": f"demo@{version[:10]}"}.get(selector, f"demo@{selector}")
    with pytest.raises(ConfigError, match=f"is {word}, which may name another version tomorrow — write demo@{version}"):
        pin(root, word)


def test_a_digest_that_the_registry_lacks_and_an_alias_of_nobody_are_named(root: Path, version: str):
    for word in ("a" * 64, f"demo@{'a' * 64}"):
        with pytest.raises(ConfigError, match=f"registry holds no version {word}"):
            pin(root, word)
    with pytest.raises(RegistryError, match="`nobody` has no versions in registry — names there: demo"):
        pin(root, "nobody@champion")


def test_a_damaged_version_is_refused(root: Path, version: str):
    path = root / "registry/demo/versions" / version / WEIGHTS
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    for words in ((f"demo@{version}", None), (None, f"demo@{version}")):
        with pytest.raises(RegistryError, match="does not have the SHA-256 of its manifest"):
            pin(root, *words)


def test_an_adapter_of_another_base_is_refused(root: Path, capsys: pytest.CaptureFixture[str]):
    shutil.rmtree(root / "data/adapters")
    word, base = f"demo@{released(root, 'f' * 64)}", read_json(root / "data/base/manifest.json")["digest"]
    said = f"was trained on another base (digest ffffffffffff) — choose that base in `base`, or an adapter of this one ({base[:12]})"  # noqa: E501
    write_params(root, word)
    assert fails(adapters, capsys).endswith(f"`train.init_adapter`: {word} {said}")
    assert not (root / "data/adapters/init").exists()
    write_params(root, None, word)
    assert fails(adapters, capsys).endswith(f"`respond.champion`: {word} {said}")
    (root / "adapters/sft/manifest.json").write_text(json.dumps({"inputs": {"base": "f" * 64}, "files": {}}))
    write_params(root, "adapters/sft")
    assert fails(adapters, capsys).endswith(f"`train.init_adapter`: adapters/sft {said}")


@pytest.mark.parametrize(("share", "is_refused"), [(0.1, False), (0.2, True)])
def test_a_start_that_saw_what_is_held_out_now_is_refused_and_an_opponent_is_not(
    root: Path, share: float, is_refused: bool
):
    base = read_json(root / "data/base/manifest.json")["digest"]
    word = f"demo@{released(root, base, 'ingest: {test_share: 0.1, split_seed: 0}')}"
    split = {"test_share": share, "split_seed": 0}
    config = adapters.AdaptersConfig(None, word, "registry", split)
    adapters.run(adapters.Folders(), config)
    config = dataclasses.replace(config, init_adapter=word)
    if not is_refused:
        adapters.run(adapters.Folders(), config)
        return
    with pytest.raises(ConfigError, match=r"`train.init_adapter`: .* trained on prompts that are held out here"):
        adapters.run(adapters.Folders(), config)
