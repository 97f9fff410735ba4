"""The curves of a training: a row for each optimizer step and for each held-out evaluation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from tasks.core.errors import ConfigError
from tasks.dpo.model.distributed import sum_over_ranks
from tasks.dpo.objective.metrics import PairSums, with_nll
from tasks.dpo.telemetry.training_monitor import TrainingMonitor
from tasks.dpo.training.step import StepSums

Curve = list[dict[str, float]]


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The curves of a finished training; `before` and `after` are its first and last held-out rows.

    Attributes:
        steps: One row an optimizer step: means over its pairs, gradient norm, learning rate.
        evals: One row a held-out evaluation, the first before any step.
        speed: Of this process's own steps, for logs and receipts: pairs and tokens a second, utilisation, seconds,
            peak bytes (see `meter.Meter`).
        resumed_after: The step of the checkpoint that this process continued from; 0 without one.
    """

    steps: Curve
    evals: Curve
    speed: dict[str, float]
    resumed_after: int = 0

    @property
    def before(self) -> dict[str, float]:
        """Held-out numbers before the first step: margin 0, and loss ln 2 for plain DPO."""
        return self.evals[0]

    @property
    def after(self) -> dict[str, float]:
        """Held-out numbers of the trained adapter."""
        return self.evals[-1]


class Curves:
    """Collects the rows; the sums of the newest steps stay on the device until they are flushed.

    Args:
        accelerator: This rank and the others, over whose pairs a row is taken.
        learning_rate: Gives the learning rate of a step.
        nll_weight: The objective's weight of the NLL term.
        monitor: Shows every new row.

    Attributes:
        steps: One row an optimizer step: means over its pairs, gradient norm, learning rate.
        evals: One row a held-out evaluation.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        learning_rate: Callable[[int], float],
        nll_weight: float,
        monitor: TrainingMonitor,
    ) -> None:
        self._accelerator, self._learning_rate = accelerator, learning_rate
        self._nll_weight, self._monitor = nll_weight, monitor
        self.steps: Curve = []
        self.evals: Curve = []
        self._pending: list[tuple[int, Tensor]] = []

    def add_step(self, step: int, sums: StepSums, grad_norm: Tensor) -> None:
        """Take the sums of optimizer step ``step`` (from 0), without waiting for the device."""
        self._pending.append((step, torch.cat([sums.pairs.values, sums.nll[None], grad_norm.double()[None]])))

    def flush(self) -> None:
        """Move the pending steps' sums to the host, summed over ranks, as rows of the curve.

        Raises:
            ConfigError: A number is NaN or inf.
        """
        if not self._pending:
            return
        table = torch.stack([values for _, values in self._pending])
        summed = sum_over_ranks(self._accelerator, table.clone())

        for (step, _), this_rank, all_ranks in zip(self._pending, table, summed, strict=True):
            row = {
                "step": step + 1.0,
                **with_nll(PairSums(all_ranks[:-2]).means(), float(all_ranks[-2]), self._nll_weight),
                "grad_norm": float(this_rank[-1]),  # the same on every rank
                "learning_rate": self._learning_rate(step),
            }
            self._add(self.steps, "train", row, f"step {step + 1}")
        self._pending.clear()

    def add_eval(self, step: int, means: dict[str, float]) -> None:
        """Add the held-out means after ``step`` steps.

        Raises:
            ConfigError: A number is NaN or inf.
        """
        row = {"step": float(step), **means}
        self._add(self.evals, "eval", row, f"the held-out evaluation after step {step}")

    def _add(self, curve: Curve, part: str, row: dict[str, float], where: str) -> None:
        if wrong := [f"{name} {value}" for name, value in row.items() if not math.isfinite(value)]:
            raise ConfigError(
                f"training diverged: {where} has {', '.join(wrong)}",
                "lower `train.learning_rate`, or look at the data of that step",
            )
        curve.append(row)
        self._monitor.curve_row(row, part)
