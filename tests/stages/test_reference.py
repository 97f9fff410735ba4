"""The stage `reference`: what it reads, what it writes, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tasks import reference, train
from tasks.core.base_model import BaseModel
from tasks.core.errors import ArtifactError
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.dataset.scored_pairs import open_scored
from tasks.dpo.reference.reference_pass import reference_logps
from tasks.pairs.tokens.token_cache import open_tokens
from tasks.rowstore.row_store import RowStore
from tests.conftest import ROOT
from tests.dpo import tiny
from tests.small_disk import fill, small_disk
from tests.stages import project

RUNTIME = tiny.budget(512)


def run(root: Path, runtime: RuntimeConfig = RUNTIME, **more: Any) -> dict[str, Any]:
    data = root / "data"
    folders = reference.Folders(data / "tokens", data / "base", data / "adapters/init", data / "reference")
    return reference.run(folders, reference.ReferenceConfig(), runtime, **more)


def rows_of(root: Path) -> RowStore:
    return RowStore.open(root / "runs/rows", "reference")


def noted(root: Path) -> dict[str, Any]:
    """Return what the stage's receipt notes."""
    return json.loads((root / "runs/receipts/reference.json").read_text())["notes"]


def test_it_writes_one_number_a_completion_token(tmp_path: Path):
    root = project.build(tmp_path)
    metrics = run(root)
    out = root / "data/reference"
    assert sorted(path.name for path in out.iterdir()) == [
        "manifest.json",
        "metrics.json",
        "test.logps.npy",
        "train.logps.npy",
    ]
    for split in ("train", "test"):
        logps, lengths = np.load(out / f"{split}.logps.npy"), open_tokens(root / "data/tokens", split).lengths
        assert (logps.dtype, len(logps)) == (np.float32, int(lengths[:, 1:].sum()))
        assert (logps < 0).all()
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert metrics["test"]["pairs"] == 7
    scored = open_scored(
        open_tokens(root / "data/tokens", "train"), out, "train", BaseModel.open(root / "data/base").digest
    )
    assert metrics["train"]["chosen_logp_per_token"] == pytest.approx(
        float(scored.sums(np.arange(12))[0].sum()) / int(scored.tokens.lengths[:, 1].sum()), abs=1e-6
    )


def test_its_inputs_are_the_tokens_and_the_base_and_nothing_of_training(tmp_path: Path):
    root = project.build(tmp_path)
    run(root)
    before = project.contents(root / "data/reference")
    inputs = json.loads(before["reference/manifest.json"])["inputs"]
    assert set(inputs) == {"base", "train_tokens", "test_tokens"}
    project.write_params(root, seed=99, objective={"beta": 0.5}, learning_rate=1e-5)
    run(root)
    assert project.contents(root / "data/reference") == before


def test_deleted_after_training_began_it_is_again_that_of_step_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = project.build(tmp_path)
    monkeypatch.chdir(root)
    reference.main()
    before = project.contents(root / "data/reference")
    train.main()
    assert (root / "models/adapter/manifest.json").is_file()
    shutil.rmtree(root / "data/reference")
    shutil.rmtree(root / "runs/rows")
    reference.main()
    assert project.contents(root / "data/reference") == before


def test_deleted_and_run_again_it_writes_the_same_bytes(tmp_path: Path):
    root = project.build(tmp_path)
    run(root)
    before = project.contents(root / "data/reference")
    shutil.rmtree(root / "data/reference")
    run(root)
    assert project.contents(root / "data/reference") == before


def test_the_bytes_hold_no_path_and_no_clock(tmp_path: Path):
    one, other = (project.build(tmp_path / name) for name in ("here", "a place elsewhere"))
    for root in (one, other):
        run(root)
    assert project.contents(one / "data/reference") == project.contents(other / "data/reference")


def test_another_base_gives_another_reference(tmp_path: Path):
    one, other = (project.build(tmp_path / str(seed), base_seed=seed) for seed in (0, 1))
    for root in (one, other):
        run(root)
    first, second = (np.load(root / "data/reference/train.logps.npy") for root in (one, other))
    assert np.abs(first - second).max() > 0.1
    manifests = [json.loads((root / "data/reference/manifest.json").read_text())["inputs"] for root in (one, other)]
    assert manifests[0]["base"] != manifests[1]["base"]
    assert manifests[0]["train_tokens"] == manifests[1]["train_tokens"]


def test_a_failure_in_the_middle_leaves_nothing_and_keeps_what_was(tmp_path: Path):
    root = project.build(tmp_path)
    run(root)
    before = project.contents(root / "data/reference")
    weights = load_file(root / "weights/model.safetensors")
    weights["lm_head.weight"][4:] = float("nan")
    save_file(weights, root / "data/base/model.safetensors", metadata={"format": "pt"})
    manifest = json.loads((root / "data/base/manifest.json").read_text())
    manifest["files"].pop("model.safetensors")  # so that the stage finds out only while it scores
    (root / "data/base/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="are NaN or inf"):
        run(root)
    assert project.contents(root / "data/reference") == before
    shutil.rmtree(root / "data/reference")
    with pytest.raises(ArtifactError, match="are NaN or inf"):
        run(root)
    assert sorted(path.name for path in (root / "data").iterdir()) == ["adapters", "base", "tokens"]


def test_new_pairs_alone_are_scored_and_the_output_is_that_of_scoring_all(tmp_path: Path):
    root = project.build(tmp_path / "a")
    run(root, rows=rows_of(root))
    old = np.load(root / "data/reference/train.logps.npy")
    tokens = {"train": tiny.pairs(13), "test": tiny.pairs(7, 99)}  # one more than the project was built with
    shutil.rmtree(root / "data/tokens")
    project.write_tokens(root, tokens)
    load, loaded = reference.load_reference, []
    try:
        reference.load_reference = lambda *words: loaded.append(load(*words)) or loaded[-1]
        run(root, rows=rows_of(root))
    finally:
        reference.load_reference = load
    new = np.load(root / "data/reference/train.logps.npy")
    assert np.array_equal(new[: len(old)], old)
    assert len(loaded) == 1
    fresh = project.build(tmp_path / "b")
    shutil.rmtree(fresh / "data/tokens")
    project.write_tokens(fresh, tokens)
    run(fresh)
    assert np.abs(np.load(fresh / "data/reference/train.logps.npy") - new).max() < 1e-5


def test_a_run_that_differs_in_training_s_params_or_in_place_makes_no_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = project.build(tmp_path / "here")
    monkeypatch.chdir(root)
    reference.main()
    assert (noted(root)["pairs_scored"], noted(root)["pairs_from_row_store"]) == (12 + 7, 0)
    before = project.contents(root / "data/reference")
    other = tmp_path / "a place elsewhere"
    shutil.copytree(root, other)
    shutil.rmtree(other / "data/reference")
    weights = other / "data/base/model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))  # whoever loads these finds out
    project.write_params(
        other, learning_rate=1e-5, seed=1, epochs=1, objective={"beta": 0.9}, runtime={"tokens_per_micro_batch": 64}
    )
    monkeypatch.chdir(other)
    reference.main()
    assert (noted(other)["pairs_scored"], noted(other)["pairs_from_row_store"]) == (0, 19)
    assert project.contents(other / "data/reference") == before


def test_with_every_row_known_neither_model_nor_transformers_is_loaded(tmp_path: Path):
    root = project.build(tmp_path)
    run(root, rows=rows_of(root))
    shutil.rmtree(root / "data/reference")
    script = "import sys; from tasks import reference; reference.main(); print('transformers' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], cwd=root, env=env, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr
    assert (root / "data/reference/manifest.json").is_file()


@pytest.mark.e2e
def test_killed_and_run_again_it_scores_what_is_left(tmp_path: Path):
    root = project.build(tmp_path, pairs=400)
    project.write_params(root, runtime={"tokens_per_micro_batch": 32, "checkpoint_every_s": 0.01})
    process = project.start(root, "reference")
    rows = root / "runs/rows/reference"
    deadline = time.monotonic() + 90
    while not list(rows.glob("*.parquet")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (root / "data/reference").exists()
    project.write_params(root)
    again = project.start(root, "reference")
    said = again.communicate(timeout=120)[1]
    assert again.returncode == 0, said
    notes = noted(root)
    assert notes["pairs_from_row_store"] > 0
    assert notes["pairs_scored"] + notes["pairs_from_row_store"] == 407
    assert sorted(path.name for path in (root / "data").iterdir()) == ["adapters", "base", "reference", "tokens"]
    found = open_scored(
        open_tokens(root / "data/tokens", "train"),
        root / "data/reference",
        "train",
        BaseModel.open(root / "data/base").digest,
    )
    assert np.abs(found.logps - reference_logps(tiny.base(), tiny.pairs(400), RUNTIME).logps).max() < 1e-5


def test_told_to_stop_it_says_so_in_one_line_and_asks_to_be_run_again(tmp_path: Path):
    root = project.build(tmp_path, pairs=3000)
    project.write_params(root, runtime={"tokens_per_micro_batch": 32, "checkpoint_every_s": 0.01})
    process = project.start(root, "reference")
    deadline = time.monotonic() + 90
    while not list((root / "runs/rows/reference").glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 75, said
    assert "[reference] error: scoring the reference was told to stop — run again to go on" in said
    assert "Traceback" not in said
    assert not (root / "data/reference").exists()


def test_with_the_row_store_off_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = project.build(tmp_path)
    project.write_params(root, runtime={"row_store": ""})
    monkeypatch.chdir(root)
    reference.main()
    assert sorted(path.name for path in (root / "runs").iterdir()) == ["locks", "receipts"]


def test_weights_and_margins_of_pairs_do_not_touch_the_reference(tmp_path: Path):
    root = project.build(tmp_path)
    run(root)
    before = project.contents(root / "data/reference")
    shutil.rmtree(root / "data/tokens")
    tokens = tiny.pairs(12)
    project.write_tokens(
        root, {"train": dataclasses.replace(tokens, weights=tokens.weights * 2), "test": tiny.pairs(7, 99)}
    )
    run(root)
    assert project.contents(root / "data/reference") == before


def test_a_damaged_base_is_refused_before_anything_is_scored(tmp_path: Path):
    root = project.build(tmp_path)
    path = root / "data/base/model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=r"model.safetensors does not have the SHA-256"):
        run(root)


def fails(monkeypatch: pytest.MonkeyPatch, root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run the stage's main in the project; return its exit code and what it said last."""
    monkeypatch.chdir(root)
    with pytest.raises(SystemExit) as left:
        reference.main()
    said = capsys.readouterr().err
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("[reference] error: ")]
    assert len(lines) == 1
    return int(left.value.code or 0), lines[0]


def test_main_writes_outputs_and_a_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = project.build(tmp_path)
    monkeypatch.chdir(root)
    reference.main()
    receipt = json.loads((root / "runs/receipts/reference.json").read_text())
    assert (receipt["status"], receipt["ranks"], receipt["error"]) == ("ok", 1, None)
    assert receipt["notes"]["completion_tokens"] > 0
    assert (root / "data/reference/manifest.json").is_file()


def test_a_full_disk_is_one_clear_line_and_no_half_written_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with small_disk(tmp_path / "data", 1024) as disk:
        root = project.build(tmp_path)
        fill(disk)
        code, line = fails(monkeypatch, root, capsys)
        assert code == 1
        assert "the disk is full — free some space there and run again" in line
        assert sorted(path.name for path in disk.iterdir()) == ["adapters", "base", "filler", "tokens"]
    assert json.loads((root / "runs/receipts/reference.json").read_text())["status"] == "storage"


def test_a_typo_in_params_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    root = project.build(tmp_path)
    (root / "params.yaml").write_text("reference:\n  modle: base\nruntime: {}\n")
    assert fails(monkeypatch, root, capsys) == (
        1,
        "[reference] error: unknown key `reference.modle` — did you mean `model`?",
    )
    assert not (root / "data/reference").exists()
