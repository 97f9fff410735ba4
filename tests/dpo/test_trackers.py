"""Trackers: only what was asked for, only what is installed, files where they belong, and never in training's way.

The services' own clients are no dependencies: a test of one is skipped where it is not installed.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from tasks.core.errors import ConfigError
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.telemetry.trackers import Trackers, open_trackers, plain_values

NAMES = ("tensorboard", "wandb", "mlflow", "dvclive")
CONFIG = {"beta": 0.1, "lora": {"rank": 8, "target_modules": ("q", "v")}, "note": None}
foreign = pytest.mark.filterwarnings("ignore")  # warnings of packages that are not ours to fix


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


def opened(folder: Path, *names: Any, resumes: bool = False) -> Trackers:
    runtime = RuntimeConfig(device="cpu", trackers=names)
    return open_trackers(Accelerator(cpu=True), runtime, "run-1", CONFIG, folder, resumes)


def log_two_steps(trackers: Trackers, first: int = 1) -> None:
    for step in (first, first + 1):
        trackers.log({"step": float(step), "loss": 1.0 / step}, step)
    trackers.close()


class Recorder:
    """A tracker of the test's own that keeps what it is sent, or is out of order from a step on."""

    def __init__(self, fails_at: int = 99) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.fails_at, self.is_finished = fails_at, False

    def log(self, values: dict[str, float], step: int) -> None:
        if step >= self.fails_at:
            raise ConnectionError("the service is\ngone")
        self.rows.append((step, values))

    def finish(self) -> None:
        self.is_finished = True


def test_without_names_nothing_is_opened_or_written(tmp_path: Path):
    log_two_steps(opened(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_that_is_not_installed_is_told_with_what_installs_it(name: str, tmp_path: Path):
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed here")
    with pytest.raises(ConfigError, match=f"`runtime.trackers` names {name}, .* run `pip install {name}`, or take"):
        opened(tmp_path, name)


def test_a_row_is_sent_by_part_and_step_without_its_step_column():
    recorder = Recorder()
    trackers = Trackers({"recorder": recorder})
    trackers.log({"step": 3.0, "loss": 0.5}, 3)
    trackers.log({"step": 4.0, "loss": 0.25}, 4, part="eval")
    trackers.close()
    assert recorder.rows == [(3, {"train/loss": 0.5}), (4, {"eval/loss": 0.25})]
    assert recorder.is_finished


def test_a_service_that_fails_is_left_out_and_the_others_go_on(caplog: pytest.LogCaptureFixture):
    steady, broken = Recorder(), Recorder(fails_at=2)
    trackers = Trackers({"broken": broken, "steady": steady})
    with caplog.at_level(logging.WARNING, "tasks"):
        log_two_steps(trackers)
    assert [step for step, _ in broken.rows] == [1]
    assert [step for step, _ in steady.rows] == [1, 2]
    assert [record.getMessage() for record in caplog.records] == ["broken failed and is dropped: the service is gone"]


def test_a_nested_config_becomes_dotted_names_with_plain_values():
    assert plain_values(CONFIG) == {"beta": 0.1, "lora.rank": 8, "lora.target_modules": "('q', 'v')", "note": "None"}


@foreign
@needs("tensorboard")
def test_tensorboard_reads_back_what_was_logged(tmp_path: Path):
    trackers = opened(tmp_path, "tensorboard")
    log_two_steps(trackers)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard" / "run-1"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]


@foreign
@needs("dvclive")
def test_dvclive_goes_on_after_a_resume_and_touches_neither_git_nor_dvc_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    log_two_steps(opened(tmp_path / "runs", "dvclive"))
    log_two_steps(opened(tmp_path / "runs", "dvclive", resumes=True), first=3)
    own = tmp_path / "runs" / "dvclive" / "run-1"
    table = (own / "plots" / "metrics" / "train" / "loss.tsv").read_text().split()
    assert table[:2] == ["step", "loss"]
    assert [float(number) for number in table[2:]] == pytest.approx([1, 1.0, 2, 0.5, 3, 1 / 3, 4, 0.25])
    assert json.loads((own / "metrics.json").read_text())["train"]["loss"] == 0.25
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@foreign
@needs("mlflow")
def test_mlflow_keeps_one_run_over_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    log_two_steps(opened(tmp_path / "runs", "mlflow"))
    log_two_steps(opened(tmp_path / "runs", "mlflow", resumes=True), first=3)
    client = importlib.import_module("mlflow").MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("dpo").experiment_id])
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert run.data.params["lora.rank"] == "8"


@foreign
@needs("wandb")
def test_wandb_writes_below_the_folder_when_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    log_two_steps(opened(tmp_path / "runs", "wandb"))
    assert list((tmp_path / "runs" / "wandb").rglob("*.wandb")) != []
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
