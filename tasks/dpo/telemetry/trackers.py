"""Curves sent to TensorBoard, Weights & Biases, MLflow, DVCLive or Prometheus while training runs, when asked for.

Their files are under `runs/`, because no stage's output may depend on the time or the host. The results themselves
are the CSV files of `results/train/`, so a tracker that fails is dropped with a warning and training goes on.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator, tracking

from tasks.core.errors import ConfigError
from tasks.core.nested import flatten
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.telemetry.prometheus import open_metrics
from tasks.telemetry import log

PROJECT = "dpo"  # the group of runs, for trackers that have groups
_log = log.get_logger(__name__)


class Trackers:
    """The open trackers of this process; none off rank 0."""

    def __init__(self, open_ones: Mapping[str, Any]) -> None:
        self._open = dict(open_ones)

    def log(self, row: Mapping[str, float], step: int, part: str = "train") -> None:
        """Send one row of a curve.

        Args:
            row: Its numbers; `step` is left out.
            step: The optimizer step that they belong to.
            part: The prefix of their names: `train`, `eval`, `speed` or `plan`.
        """
        values = {f"{part}/{name}": float(value) for name, value in row.items() if name != "step"}
        self._each(lambda tracker: tracker.log(values, step=step))

    def close(self) -> None:
        """Write out and close all trackers."""
        self._each(lambda tracker: tracker.finish())
        self._open.clear()

    def _each(self, do: Callable[[Any], object]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                do(tracker)
            except Exception as error:  # noqa: BLE001 a service may fail in any way, and training must not
                _log.warning("%s failed and is dropped: %s", name, " ".join(str(error).split()))
                del self._open[name]


def open_trackers(
    accelerator: Accelerator,
    runtime: RuntimeConfig,
    run_name: str,
    config: Mapping[str, Any],
    folder: Path,
    resumes: bool = False,
) -> Trackers:
    """Open what `runtime.trackers` names, and `runtime.metrics_address`, on the main process.

    Args:
        accelerator: This rank and the others.
        runtime: Names the trackers and the address.
        run_name: The run's name there; a tracker that can resume a run continues the run of this name.
        config: The run's settings; may be nested.
        folder: Where trackers write files, each in its own folder.
        resumes: Whether training goes on from a checkpoint.

    Raises:
        ConfigError: A tracker's package is not installed, or it does not open.
    """
    for name in runtime.trackers:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"`runtime.trackers` names {name}, which is not installed",
                f"run `pip install {name}`, or take it out of the list",
            )

    names = runtime.trackers if accelerator.is_main_process else ()
    opened: dict[str, Any] = {name: _open(name, run_name, config, (folder / name).resolve(), resumes) for name in names}
    if metrics := open_metrics(runtime, run_name, accelerator.is_main_process):
        opened["prometheus"] = metrics
    return Trackers(opened)


def _open(name: str, run_name: str, config: Mapping[str, Any], folder: Path, resumes: bool) -> Any:
    """Open one tracker; the service's id of the run is saved beside it, so that a resumed training continues it."""
    folder.mkdir(parents=True, exist_ok=True)
    id_file = folder / f"{run_name}.id"
    run_id = id_file.read_text(encoding="utf-8") if resumes and id_file.is_file() else None

    try:
        tracker = _make(name, folder, run_name, resumes, run_id)
        tracker.start()
        tracker.store_init_configuration({} if run_id else plain_values(config))
    except Exception as error:
        raise ConfigError(
            f"the tracker {name} does not open ({error})", "fix that, or take it out of `runtime.trackers`"
        ) from error

    if name in _IDS:
        id_file.write_text(_IDS[name](tracker), encoding="utf-8")
    return tracker


def plain_values(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Return a nested config as one level with dotted names; a value that is no number or text becomes text."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in flatten(config).items()
    }


def _make(name: str, folder: Path, run_name: str, resumes: bool, run_id: str | None) -> Any:
    match name:
        case "tensorboard":
            return tracking.TensorBoardTracker(run_name, logging_dir=folder)
        case "wandb":
            more = {"id": run_id, "resume": "allow"} if run_id else {}
            project = os.environ.get("WANDB_PROJECT", PROJECT)
            return tracking.WandBTracker(project, dir=str(folder), name=run_name, **more)
        case "mlflow":
            os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
            place = (folder / "artifacts").as_uri()
            return tracking.MLflowTracker(PROJECT, logging_dir=place, run_id=run_id, run_name=run_name)
        case _:  # dvclive, without its own dvc.yaml and experiment: the stages have theirs
            where = str(folder / run_name)
            return tracking.DVCLiveTracker(dir=where, resume=resumes, save_dvc_exp=False, dvcyaml=None, report=None)


_IDS: dict[str, Callable[[Any], str]] = {
    "wandb": lambda tracker: str(tracker.tracker.id),
    "mlflow": lambda tracker: str(tracker.tracker.info.run_id),
}
