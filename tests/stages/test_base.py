"""The base stage: the demo's model, a real local folder, a hub of ours on loopback, and bad input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks import base
from tasks.base import BaseConfig
from tasks.core.base_model import BaseModel
from tasks.core.errors import ArtifactError, ConfigError, DataError, PipelineError
from tasks.core.files import digest_of, sha256_file, verify_manifest
from tasks.demo.model.model import DemoModelConfig
from tests.conftest import ROOT
from tests.demo.tiny_demo import tiny
from tests.stages.hub_server import Hub, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "org/tiny"
LOCAL_FILES = {
    *("config.json", "generation_config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
}


def run(out: Path, config: BaseConfig, demo: DemoModelConfig | None = None) -> dict[str, Any]:
    return base.run(base.Folders(out), config, demo)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return json.loads((folder / "manifest.json").read_text()), json.loads((folder / "metrics.json").read_text())


def refuse(out: Path, source: object, kind: type[PipelineError], words: str, revision: str | None = None) -> None:
    with pytest.raises(kind, match=words):
        run(out, BaseConfig(str(source), revision))
    assert not out.exists()
    assert not list(out.parent.glob(".base*"))


# the demo's model


def test_the_demo_s_model_is_pinned_where_it_was_trained_and_loads(tmp_path: Path) -> None:
    metrics = run(tmp_path / "base", BaseConfig(), tiny(steps=4))
    manifest, on_disk = read(tmp_path / "base")
    assert metrics == on_disk
    assert set(metrics) == {"parameters", "vocabulary", "loss", "tokens"}
    assert (manifest["kind"], manifest["source"], manifest["revision"]) == ("demo", "demo", None)
    assert manifest["digest"] == digest_of(manifest["model_files"])
    assert set(manifest["files"]) - set(manifest["model_files"]) == {"curve.csv", "metrics.json"}
    verify_manifest(tmp_path / "base", "base")
    curve = (tmp_path / "base/curve.csv").read_text().splitlines()
    assert curve[0] == "step,loss"
    assert len(curve) == 1 + 4
    opened = BaseModel.open(tmp_path / "base")
    assert opened.location == str(tmp_path / "base")
    assert len(opened.load_tokenizer()) == metrics["vocabulary"] == 400
    template = json.loads((tmp_path / "base/tokenizer_config.json").read_text())["chat_template"]
    assert "<|im_start|>" in template


def test_the_demo_s_model_is_the_same_bytes_twice(tmp_path: Path) -> None:
    for name in ("first", "second"):
        run(tmp_path / name, BaseConfig(), tiny(steps=3))
    first, second = ((tmp_path / name / "manifest.json").read_text() for name in ("first", "second"))
    assert first == second


# a local folder


def test_a_local_folder_is_pinned_by_the_hashes_of_its_model_files(shared: Path, tmp_path: Path) -> None:
    folder = shared / "models/stories260K"
    metrics = run(tmp_path / "base", BaseConfig(str(folder)))
    manifest, _ = read(tmp_path / "base")
    assert metrics == {"parameters": 260032, "vocabulary": 512}
    assert manifest["kind"] == "local"
    assert set(manifest["model_files"]) == LOCAL_FILES
    for name, entry in manifest["model_files"].items():
        assert entry == {"sha256": sha256_file(folder / name), "size": (folder / name).stat().st_size}
    assert set(manifest["files"]) == {"metrics.json"}
    assert BaseModel.open(tmp_path / "base").location == str(folder)


def test_a_base_in_four_bits_is_another_base_of_the_same_files(shared: Path, tmp_path: Path) -> None:
    folder = shared / "models/stories260K"
    run(tmp_path / "whole", BaseConfig(str(folder)))
    run(tmp_path / "base", BaseConfig(str(folder), quantise="nf4"))
    (whole, facts), (manifest, same_facts) = read(tmp_path / "whole"), read(tmp_path / "base")
    assert "quantise" not in whole
    assert (manifest["model_files"], same_facts) == (whole["model_files"], facts)
    assert manifest["digest"] == digest_of({"files": manifest["model_files"], "quantise": "nf4"}) != whole["digest"]
    opened, full = BaseModel.open(tmp_path / "base"), BaseModel.open(tmp_path / "whole")
    assert (opened.quantise, opened.digest) == ("nf4", manifest["digest"])
    assert full.quantise == "none"


def test_what_is_computed_in_is_pinned_and_makes_no_other_base(shared: Path, tmp_path: Path) -> None:
    folder = shared / "models/stories260K"
    run(tmp_path / "plain", BaseConfig(str(folder)))
    run(tmp_path / "base", BaseConfig(str(folder), compute_dtype="bfloat16"))
    (plain, _), (manifest, _) = read(tmp_path / "plain"), read(tmp_path / "base")
    assert "compute_dtype" not in plain
    assert manifest["digest"] == plain["digest"], "an adapter fits it in either type"
    assert BaseModel.open(tmp_path / "base").compute_dtype == "bfloat16"


def test_a_local_folder_that_changes_afterwards_is_found_out(model: Path, tmp_path: Path) -> None:
    run(tmp_path / "base", BaseConfig(str(model)))
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    with pytest.raises(ArtifactError, match=r"config.json changed since the base stage pinned it"):
        BaseModel.open(tmp_path / "base")


def test_a_pickle_only_model_is_refused(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    refuse(tmp_path / "base", model, DataError, "pickle only, which can run code")


def test_a_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    refuse(tmp_path / "base", tmp_path / "nowhere", ConfigError, "nowhere'?, and there is no such folder")


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (["config.json"], "has no config.json"),
        (["tokenizer.json", "tokenizer.model"], "has no tokenizer"),
        (["model.safetensors"], r"has no weights \(\*.safetensors\)"),
    ],
)
def test_a_folder_without_a_part_of_the_model_is_refused(
    model: Path, tmp_path: Path, missing: list[str], words: str
) -> None:
    for name in missing:
        (model / name).unlink()
    refuse(tmp_path / "base", model, DataError, words)


def test_weights_that_are_cut_off_are_refused_by_name(model: Path, tmp_path: Path) -> None:
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[:-100])
    refuse(tmp_path / "base", model, DataError, "model.safetensors is not a safetensors file")


def test_a_large_file_s_pointer_instead_of_weights_is_refused_by_name(model: Path, tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (model / "model.safetensors").write_text(pointer)
    refuse(tmp_path / "base", model, DataError, "model.safetensors is a pointer of Git LFS")


def test_a_missing_shard_is_refused_by_name(model: Path, tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}, "metadata": {}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refuse(tmp_path / "base", model, DataError, "lacks model-00002-of-00002.safetensors")


def test_a_config_that_is_not_json_is_refused_by_name(model: Path, tmp_path: Path) -> None:
    (model / "config.json").write_text("{")
    refuse(tmp_path / "base", model, DataError, "config.json is not valid JSON")


def test_a_revision_of_a_folder_is_refused(model: Path, tmp_path: Path) -> None:
    refuse(tmp_path / "base", model, ConfigError, "`base.revision` is '0123", COMMIT)


# the hub


OPEN_BASE = "from pathlib import Path; from tasks.core.base_model import BaseModel; BaseModel.open(Path('data/base'))"


@pytest.fixture
def hub(model: Path) -> Iterator[Hub]:
    (model / "pytorch_model.bin").write_bytes(b"a pickle")
    (model / "onnx").mkdir()
    (model / "onnx/model.safetensors").write_bytes(b"another format")
    with serving(NAME, COMMIT, model) as server:
        yield server


def run_stage(root: Path, endpoint: str, source: str, revision: str | None) -> subprocess.CompletedProcess[str]:
    """Run `python -m tasks.base` in ``root``."""
    root.mkdir(exist_ok=True)
    with (root / "params.yaml").open("w") as stream:
        YAML(typ="safe", pure=True).dump({"base": {"source": source, "revision": revision}}, stream)
    return python(root, endpoint, "-m", "tasks.base")


def python(root: Path, endpoint: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in ``root`` with a hub cache of its own: the hub's client reads HF_ENDPOINT when it is imported."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(root / "hub"), "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_XET": "1"}
    env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return subprocess.run([sys.executable, *words], cwd=root, env=env, capture_output=True, text=True, timeout=60)


def one_error(done: subprocess.CompletedProcess[str], root: Path) -> str:
    """Check that the stage failed with one line and no output; return the line."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1, done.stderr
    assert not list((root / "data").glob("*"))
    return lines[0]


@pytest.mark.parametrize("revision", ["main", None])
def test_a_branch_is_refused_with_the_commit_that_it_stands_at(tmp_path: Path, hub: Hub, revision: str | None) -> None:
    line = one_error(run_stage(tmp_path / "p", hub.url, NAME, revision), tmp_path / "p")
    assert f"revision: {COMMIT}" in line
    assert "`main` stands at" in line
    assert hub.downloads() == set()


def test_a_pinned_hub_model_is_downloaded_once_hashed_and_left_in_the_hub_s_cache(
    tmp_path: Path, model: Path, hub: Hub
) -> None:
    root = tmp_path / "p"
    done = run_stage(root, hub.url, NAME, COMMIT)
    assert done.returncode == 0, done.stderr
    manifest, metrics = read(root / "data/base")
    assert (manifest["kind"], manifest["source"], manifest["revision"]) == ("hub", NAME, COMMIT)
    assert metrics == {"parameters": 260032, "vocabulary": 512}
    assert hub.downloads() == set(manifest["model_files"]) == LOCAL_FILES
    assert manifest["model_files"]["config.json"]["sha256"] == sha256_file(model / "config.json")
    assert sorted(path.name for path in (root / "data/base").iterdir()) == ["manifest.json", "metrics.json"]
    assert list((root / "hub").rglob("model.safetensors"))
    before = (root / "data/base/manifest.json").read_bytes()
    for hub.status in (503, 403):  # what is pinned and cached needs no hub
        assert run_stage(root, hub.url, NAME, COMMIT).returncode == 0
    assert (root / "data/base/manifest.json").read_bytes() == before


def test_weights_that_changed_in_the_hub_s_cache_are_refused_and_fetched_again_as_the_error_advises(
    tmp_path: Path, hub: Hub
) -> None:
    root = tmp_path / "p"
    assert run_stage(root, hub.url, NAME, COMMIT).returncode == 0
    (weights,) = (root / "hub").rglob("snapshots/*/model.safetensors")
    pinned, content = sha256_file(weights), weights.read_bytes()
    weights.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused = python(root, hub.url, "-c", OPEN_BASE).stderr
    assert f"{weights} changed since the base stage pinned it" in refused
    (advised,) = re.findall(r"delete (\S+): it is downloaded again", refused)
    Path(advised).unlink()
    assert python(root, hub.url, "-c", OPEN_BASE).returncode == 0
    assert sha256_file(weights) == pinned


def test_a_model_or_commit_that_the_hub_does_not_have_is_refused_by_name(tmp_path: Path, hub: Hub) -> None:
    root = tmp_path / "p"
    line = one_error(run_stage(root, hub.url, "org/other", COMMIT), root)
    assert "org/other" in line
    assert hub.url in line
    assert "no folder here has that name" in line
    other = "f" * 40
    line = one_error(run_stage(root, hub.url, NAME, other), root)
    assert f"{NAME} at {other}" in line


def test_a_hub_that_does_not_answer_is_named_with_its_endpoint(tmp_path: Path, hub: Hub) -> None:
    root, nobody = tmp_path / "p", "http://127.0.0.1:9"
    line = one_error(run_stage(root, nobody, NAME, COMMIT), root)
    assert nobody in line
    assert "HF_ENDPOINT" in line
    line = one_error(run_stage(root, nobody, NAME, "main"), root)
    assert "could not be asked" in line
    receipt = json.loads((root / "runs/receipts/base.json").read_text())
    assert receipt["status"] == "config"
    hub.status = 500
    line = one_error(run_stage(root, hub.url, NAME, COMMIT), root)
    assert f"the Hub ({hub.url}) fails for model {NAME} at {COMMIT} (500) — run again later" in line
