"""Train the LoRA adapter by Direct Preference Optimization.

reads:  data/tokens/, data/reference/, data/base/, data/adapters/init/
writes: models/adapter/ — the adapter in PEFT's format; results/train/ — metrics and curves
params: `train` in params.yaml; `runtime` for speed
run as: python -m tasks.train (one process a GPU where there are several; or under torchrun)

A run that was killed goes on from its newest checkpoint under runs/train/ and ends in the same bytes.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import shutil
from pathlib import Path
from typing import Any

from tasks.core import paths
from tasks.core.base_model import BaseModel
from tasks.core.files import atomic_folder, digest_of, manifest_digest, pretty_json, write_text
from tasks.core.locks import hold_lock
from tasks.core.params import load_section
from tasks.core.pinned_adapter import INIT_KEY, PinnedAdapter, refuse_other_source
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.dataset.scored_pairs import ScoredPairs, open_scored
from tasks.dpo.model import sharding
from tasks.dpo.model.adapter import attach_lora
from tasks.dpo.model.adapter_loading import load_adapter
from tasks.dpo.model.base_loading import load_base
from tasks.dpo.model.distributed import all_done, open_accelerator
from tasks.dpo.objective.metrics import SUMS
from tasks.dpo.telemetry.trackers import open_trackers
from tasks.dpo.training.adapter_saving import save_adapter
from tasks.dpo.training.train_config import TrainConfig
from tasks.dpo.training.trainer import train
from tasks.dpo.training.training_curves import Curve, TrainResult
from tasks.launch.launcher import relaunch_on_all_gpus
from tasks.launch.stage import door
from tasks.pairs.tokens.token_cache import open_tokens
from tasks.telemetry import log
from tasks.telemetry.receipts import note

_log = log.get_logger(__name__)
_DIGITS = 8  # significant digits in metrics and curves
_COLUMNS = ("step", *SUMS, "nll", "grad_norm", "learning_rate")


@dataclasses.dataclass(frozen=True)
class Folders:
    """What the stage reads and writes."""

    tokens: Path = paths.TOKENS
    reference: Path = paths.REFERENCE
    base: Path = paths.BASE
    init_adapter: Path = paths.INIT_ADAPTER
    adapter: Path = paths.ADAPTER
    results: Path = paths.TRAIN_RESULTS
    runs: Path = paths.RUNS / "train"


def run(folders: Folders, config: TrainConfig, runtime: RuntimeConfig) -> dict[str, Any]:
    """Train, or go on training, and write adapter and curves; return the metrics.

    Raises:
        ArtifactError: An input is missing, damaged or belongs to other inputs.
        Preempted: The process was asked to stop; a checkpoint stands under ``folders.runs``.
        ConfigError: Training diverged, or `train.lora.target_modules` names no layer.
    """
    base = BaseModel.open(folders.base)
    start = PinnedAdapter.open(folders.init_adapter, base.digest)
    refuse_other_source(start, folders.init_adapter, INIT_KEY, config.init_adapter)
    reference_of = (base.digest, start.digest if start else None, base.compute_dtype)
    train_set, test_set = (
        open_scored(open_tokens(folders.tokens, split), folders.reference, split, *reference_of)
        for split in ("train", "test")
    )

    inputs = {
        "base": base.digest,
        "tokens": manifest_digest(folders.tokens, "encode"),
        "reference": manifest_digest(folders.reference, "reference"),
        **({"init_adapter": start.digest} if start else {}),
    }
    settings = dataclasses.asdict(config)
    checkpoints = folders.runs / digest_of({"inputs": inputs, "config": settings})[:16]
    resumes = checkpoints.is_dir()

    accelerator = open_accelerator(runtime)
    model = load_base(base, accelerator.device, is_sharded=sharding.is_wanted(runtime, accelerator))
    policy = load_adapter(model, start.folder, config.lora) if start else attach_lora(model, config.lora, config.seed)
    trackers = open_trackers(accelerator, runtime, checkpoints.name, settings, folders.runs / "trackers", resumes)
    lock = hold_lock(checkpoints.with_name(f".{checkpoints.name}.lock"), f"{checkpoints} is in use")
    with contextlib.closing(trackers), lock if accelerator.is_main_process else contextlib.nullcontext():
        result = train(policy, train_set, test_set, config, runtime, checkpoints, trackers)

    metrics = _metrics(result, train_set, test_set, config)
    if accelerator.is_main_process:
        note(**result.speed, optimizer_steps=len(result.steps), resumed_after=result.resumed_after)
        about = {"stage": "train", "inputs": inputs}
        with atomic_folder(folders.results, about) as curves, atomic_folder(folders.adapter, about) as adapter:
            write_text(curves / "metrics.json", pretty_json(metrics))
            write_text(curves / "steps.csv", _csv(result.steps))
            write_text(curves / "evals.csv", _csv(result.evals))
            save_adapter(policy, adapter, base)
        shutil.rmtree(checkpoints, ignore_errors=True)
        _log.info("held-out accuracy %.3f, margin %.3f", metrics["after"]["accuracy"], metrics["after"]["margin"])
    all_done(accelerator)
    return metrics


def _metrics(result: TrainResult, train_set: ScoredPairs, test_set: ScoredPairs, config: TrainConfig) -> dict[str, Any]:
    unique = int(train_set.tokens.lengths.sum(dtype="int64"))
    return {
        "pairs": {"train": len(train_set), "test": len(test_set)},
        "epochs": config.epochs,
        "steps": len(result.steps),
        "tokens_train": unique * config.epochs,
        "train_loss_first": _round(result.steps[0]["loss"]),
        "train_loss_last": _round(result.steps[-1]["loss"]),
        "before": {name: _round(value) for name, value in result.before.items() if name != "step"},
        "after": {name: _round(value) for name, value in result.after.items() if name != "step"},
    }


def _csv(curve: Curve) -> str:
    """Return a curve as CSV, a row a step, the same columns and digits on every machine and after a resume."""
    stream = io.StringIO()
    names = [name for name in _COLUMNS if any(name in row for row in curve)]
    writer = csv.DictWriter(stream, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    for row in curve:
        writer.writerow({**{name: _round(value) for name, value in row.items()}, "step": int(row["step"])})
    return stream.getvalue()


def _round(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def main() -> None:
    """Bind the standard paths and params.yaml, on every visible GPU."""
    relaunch_on_all_gpus("train")
    with door("train", TrainConfig) as config:
        run(Folders(), config, load_section(paths.PARAMS, "runtime", RuntimeConfig))


if __name__ == "__main__":
    main()
