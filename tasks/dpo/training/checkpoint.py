"""Checkpoints of training: atomic, complete, without pickles, and valid after a kill.

A checkpoint is a folder `step-00000120` with the adapter's and the optimizer's tensors and the curves
so far. It holds no random state: every step and micro-batch seeds its dropout anew, from `train.seed`.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from tasks.core.errors import ArtifactError
from tasks.core.files import atomic_folder, pretty_json, read_json, verify_manifest, write_bytes, write_text
from tasks.telemetry import log

KEEP = 2
_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The state of training after ``step`` optimizer steps.

    Attributes:
        step: Optimizer steps done.
        parameters: The adapter's parameters in the model's order.
        moments: AdamW's state: `exp_avg.<i>`, `exp_avg_sq.<i>`, `step.<i>` of parameter i.
        curves: Rows of the training and held-out curves so far.
        state: The objective's running means.
        reference: The reference's adapters where they moved, in the order of ``parameters``; else empty.
    """

    step: int
    parameters: Sequence[Tensor]
    moments: dict[str, Tensor]
    curves: dict[str, Any]
    state: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    reference: Sequence[Tensor] = ()


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint under ``folder``, then delete all but the newest two."""
    with atomic_folder(folder / f"step-{checkpoint.step:08d}", {"step": checkpoint.step}) as draft:
        named = {f"parameter.{i}": tensor for i, tensor in enumerate(checkpoint.parameters)}
        named |= {f"reference.{i}": tensor for i, tensor in enumerate(checkpoint.reference)}
        plain = {name: t.detach().cpu().contiguous() for name, t in {**named, "state": checkpoint.state}.items()}
        write_bytes(draft / "parameters.safetensors", safetensors_bytes(plain))
        moments = {name: t.detach().cpu().contiguous() for name, t in checkpoint.moments.items()}
        write_bytes(draft / "optimizer.safetensors", safetensors_bytes(moments))
        write_text(draft / "curves.json", pretty_json(checkpoint.curves))
    for old in _folders(folder)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest complete checkpoint under ``folder``; log damaged ones and skip them."""
    for candidate in _folders(folder):
        try:
            return _load(candidate)
        except (ArtifactError, SafetensorError, KeyError) as error:
            _log.warning("checkpoint %s is damaged and skipped (%s)", candidate.name, error)
    return None


def _load(folder: Path) -> Checkpoint:
    manifest = verify_manifest(folder, "train")
    named = load_tensors((folder / "parameters.safetensors").read_bytes())
    moments = load_tensors((folder / "optimizer.safetensors").read_bytes())
    parameters, reference = (_numbered(named, kind) for kind in ("parameter", "reference"))
    curves = read_json(folder / "curves.json")
    return Checkpoint(int(manifest["step"]), parameters, moments, curves, named["state"], reference)


def _numbered(named: dict[str, Tensor], kind: str) -> list[Tensor]:
    return [named[f"{kind}.{i}"] for i in range(sum(name.startswith(f"{kind}.") for name in named))]


def _folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)
