"""Checkpoints: complete or skipped, two kept, and training goes on from them bit for bit."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.core.errors import Preempted
from tasks.dpo.model.adapter import LoraSettings, adapter_parameters
from tasks.dpo.training.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from tests.dpo import tiny

PAIRS = tiny.pairs(14)  # steps of 4, 4, 4 and 2
CONFIG = tiny.config(
    learning_rate=5e-3, nll_weight=0.3, pairs_per_step=4, epochs=2, evaluations=3, lora=tiny.LORA, warmup_share=0.2
)
RUNTIME = tiny.budget(65536)  # one micro-batch a step: forwards can be counted
EVERY_STEP = tiny.budget(65536, checkpoint_every_s=1e-9)


def saved(folder: Path, *steps: int) -> Path:
    for step in steps:
        tensors = [torch.full((3, 2), float(step))]
        save_checkpoint(folder, Checkpoint(step, tensors, {"exp_avg.0": tensors[0]}, {"steps": [], "evals": []}))
    return folder


def told_to_stop_in_step(step: int, number: int = signal.SIGTERM, lora: LoraSettings = tiny.LORA) -> Any:
    """Return a policy that sends this process a signal in the forward of optimizer step ``step``."""
    model, seen = tiny.policy(seed=CONFIG.seed, lora=lora), []

    def count(*_: object) -> None:
        if torch.is_grad_enabled():  # a training step, not an evaluation
            seen.append(1)
            if len(seen) == step:
                os.kill(os.getpid(), number)

    model.get_base_model().model.register_forward_hook(count)
    return model


def test_a_checkpoint_is_read_back(tmp_path: Path):
    found = newest_checkpoint(saved(tmp_path, 3))
    assert found is not None
    assert found.step == 3
    assert torch.equal(found.parameters[0], torch.full((3, 2), 3.0))
    assert list(found.moments) == ["exp_avg.0"]
    assert found.curves == {"steps": [], "evals": []}


def test_no_checkpoint_is_none(tmp_path: Path):
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "missing") is None


def test_only_two_checkpoints_are_kept(tmp_path: Path):
    saved(tmp_path, 1, 2, 9, 10, 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]


def test_a_checkpoint_holds_no_pickle(tmp_path: Path):
    files = sorted(path.name for path in saved(tmp_path, 1).rglob("*") if path.is_file())
    assert files == ["curves.json", "manifest.json", "optimizer.safetensors", "parameters.safetensors"]


def tear(folder: Path, how: str) -> None:
    """Damage a checkpoint as a kill, a full disk or a bad disk would."""
    if how == "unfinished draft":
        folder.rename(folder.with_name(f".{folder.name}.4242.draft"))
    elif how == "no manifest":
        (folder / "manifest.json").unlink()
    elif how == "manifest cut":
        (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:40])
    elif how == "manifest empty":
        (folder / "manifest.json").write_text("null")
    elif how == "tensor cut":
        path = folder / "parameters.safetensors"
        path.write_bytes(path.read_bytes()[:-5])
    elif how == "bit flipped":
        path = folder / "optimizer.safetensors"
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif how == "file missing":
        (folder / "optimizer.safetensors").unlink()
    elif how == "vouched rubbish":  # a manifest that fits files which are not ours
        (folder / "curves.json").write_text("{}")
        (folder / "parameters.safetensors").write_bytes(b"rubbish!")
        (folder / "manifest.json").write_text(json.dumps({"step": 2, "files": {}}))


HARMS = ("no manifest", "manifest cut", "manifest empty", "tensor cut", "bit flipped", "file missing")


@pytest.mark.parametrize("how", [*HARMS, "vouched rubbish"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_taken(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
):
    tear(saved(tmp_path, 1, 2) / "step-00000002", how)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1
    assert "step-00000002 is damaged and skipped" in caplog.text


def test_a_checkpoint_that_was_never_finished_is_no_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    tear(saved(tmp_path, 1, 2) / "step-00000002", "unfinished draft")
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1
    assert caplog.text == ""


def test_when_all_are_damaged_training_starts_over(tmp_path: Path):
    for step in (1, 2):
        tear(saved(tmp_path, step) / f"step-{step:08d}", "tensor cut")
    assert newest_checkpoint(tmp_path) is None


def test_a_save_that_fails_leaves_the_last_checkpoint(tmp_path: Path):
    saved(tmp_path, 1)
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path, Checkpoint(2, [torch.zeros(1)], {}, {"steps": [{"loss": float("nan")}]}))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@functools.cache
def straight(lora: LoraSettings = tiny.LORA) -> tuple[Any, Any]:
    return tiny.run(PAIRS, tiny.changed(CONFIG, lora=lora), RUNTIME)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_resumed_run_equals_the_straight_run_bit_for_bit(tmp_path: Path, step: int, dropout: float):
    lora = dataclasses.replace(tiny.LORA, dropout=dropout)
    config = tiny.changed(CONFIG, lora=lora)
    expected, expected_model = straight(lora)
    model = told_to_stop_in_step(step, lora=lora)
    with pytest.raises(Preempted, match=r"told to stop after step \d+ — run again to go on from there"):
        tiny.run(PAIRS, config, RUNTIME, checkpoints=tmp_path / "runs", model=model)
    found = newest_checkpoint(tmp_path / "runs")
    assert found is not None
    assert found.step in (step, step + 1)
    resumed, model = tiny.run(PAIRS, config, RUNTIME, checkpoints=tmp_path / "runs")
    assert resumed.steps == expected.steps
    assert resumed.evals == expected.evals
    assert tiny.adapter_bytes(model, tmp_path / "a") == tiny.adapter_bytes(expected_model, tmp_path / "b")


def test_a_run_that_is_stopped_again_and_again_ends_in_the_same_bytes(tmp_path: Path):
    expected, expected_model = straight()
    stops = 0
    while True:
        try:
            result, model = tiny.run(PAIRS, CONFIG, RUNTIME, checkpoints=tmp_path / "r", model=told_to_stop_in_step(1))
            break
        except Preempted:
            stops += 1
    assert stops >= 3
    assert (result.steps, result.evals) == (expected.steps, expected.evals)
    assert tiny.adapter_bytes(model, tmp_path / "a") == tiny.adapter_bytes(expected_model, tmp_path / "b")


def test_ctrl_c_leaves_a_checkpoint_too(tmp_path: Path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Preempted):
        tiny.run(PAIRS, CONFIG, RUNTIME, checkpoints=tmp_path, model=told_to_stop_in_step(2, signal.SIGINT))
    assert newest_checkpoint(tmp_path) is not None
    assert signal.getsignal(signal.SIGINT) is before


def test_without_a_folder_nothing_is_promised(tmp_path: Path):
    with pytest.raises(Preempted, match="run again from the start: nothing was saved"):
        tiny.run(PAIRS, CONFIG, RUNTIME, model=told_to_stop_in_step(2))


def half_done(folder: Path) -> Path:
    with pytest.raises(Preempted):
        tiny.run(PAIRS, CONFIG, RUNTIME, checkpoints=folder, model=told_to_stop_in_step(4))
    return folder


def test_the_optimizer_s_moments_are_part_of_what_is_restored(tmp_path: Path):
    found = newest_checkpoint(half_done(tmp_path / "runs"))
    assert found is not None
    assert {name.split(".")[0] for name in found.moments} == {"step", "exp_avg", "exp_avg_sq"}
    shutil.rmtree(tmp_path / "runs")
    save_checkpoint(tmp_path / "runs", dataclasses.replace(found, moments={}))
    forgetful, _ = tiny.run(PAIRS, CONFIG, RUNTIME, checkpoints=tmp_path / "runs")
    assert tiny.gap(straight()[0], forgetful) > 1e-6


def test_the_adapter_s_weights_are_part_of_what_is_restored(tmp_path: Path):
    found = newest_checkpoint(half_done(tmp_path / "runs"))
    assert found is not None
    fresh = [p.detach() for p in adapter_parameters(tiny.policy(seed=CONFIG.seed))]
    assert any(not torch.equal(a, b) for a, b in zip(found.parameters, fresh, strict=True))
    shutil.rmtree(tmp_path / "runs")
    save_checkpoint(tmp_path / "runs", dataclasses.replace(found, parameters=fresh))
    forgetful, _ = tiny.run(PAIRS, CONFIG, RUNTIME, checkpoints=tmp_path / "runs")
    assert tiny.gap(straight()[0], forgetful) > 1e-6


@pytest.mark.parametrize("how", ["tensor cut", "no manifest", "unfinished draft"])
def test_a_run_whose_newest_checkpoint_was_torn_ends_in_the_same_curves(tmp_path: Path, how: str):
    with pytest.raises(Preempted):
        tiny.run(PAIRS, CONFIG, EVERY_STEP, checkpoints=tmp_path, model=told_to_stop_in_step(4))
    newest = sorted(tmp_path.glob("step-*"))[-1]
    tear(newest, how)
    resumed, _ = tiny.run(PAIRS, CONFIG, RUNTIME, checkpoints=tmp_path)
    assert (resumed.steps, resumed.evals) == (straight()[0].steps, straight()[0].evals)


def test_saving_often_does_not_change_the_run(tmp_path: Path):
    result, _ = tiny.run(PAIRS, CONFIG, EVERY_STEP, checkpoints=tmp_path)
    assert (result.steps, result.evals) == (straight()[0].steps, straight()[0].evals)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000006", "step-00000007"]
