"""What a person sees of a training while it runs: the bar, speeds beside it, and the curves sent to trackers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from tasks.dpo.capacity.flops import ModelShape, training_flops
from tasks.dpo.capacity.step_plan import Rows, Sizes
from tasks.dpo.telemetry.meter import Meter, in_one_line
from tasks.dpo.telemetry.trackers import Trackers
from tasks.telemetry import log


class TrainingMonitor:
    """Shows a training; no result depends on it.

    Args:
        steps: Optimizer steps of the whole training.
        sizes: What the training pairs take, every prompt once.
        shape: The model's, which gives the operations of a pair.
        device: Whose memory is shown.
        peak_rate: Floating-point operations a second of all ranks' matrix products.
        trackers: Where curves and speeds are also sent.
    """

    def __init__(
        self,
        steps: int,
        sizes: Sizes,
        shape: ModelShape,
        device: torch.device,
        peak_rate: float,
        trackers: Trackers,
    ) -> None:
        self._steps, self._sizes, self._shape = steps, sizes, shape
        self._meter, self._trackers = Meter(device, peak_rate), trackers
        self._bar: Any = None

    @contextlib.contextmanager
    def running(self, start: int) -> Iterator[None]:
        """Show the bar and let the clock run for a block that trains from step ``start`` on."""
        self._trackers.log({"steps": float(self._steps)}, start, part="plan")
        self._meter.start()
        with log.bar("train", self._steps, start, "step") as self._bar:
            yield

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock for a block that is no training: an evaluation, a checkpoint."""
        self._meter.stop()
        yield
        self._meter.start()

    def step_done(self, rows: Rows) -> None:
        """Count an optimizer step over the pairs ``rows``."""
        self._meter.step(len(rows), self._sizes.tokens(rows), training_flops(self._shape, self._sizes.lengths[rows]))
        self._bar.update()

    def curve_row(self, row: Mapping[str, float], part: str) -> None:
        """Send a row of the curve ``part``, `train` or `eval`, to the trackers."""
        self._trackers.log(row, int(row["step"]), part=part)

    def lap(self, row: Mapping[str, float]) -> None:
        """Show the speed since the last lap beside the numbers of ``row``, the newest one of the curve."""
        speed = self._meter.lap()
        self._trackers.log(speed, int(row["step"]), part="speed")
        self._bar.set_postfix_str(in_one_line(speed, row))

    def speed(self) -> dict[str, float]:
        """Return the means of all steps so far, see :meth:`tasks.dpo.telemetry.meter.Meter.summary`."""
        return self._meter.summary()
