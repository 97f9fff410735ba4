"""The speed of training and the utilisation of the machine, for one short line beside the progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

from tasks.dpo.capacity.memory import in_words
from tasks.telemetry.provenance import peak_memory_bytes


class Meter:
    """Pairs, tokens and operations over the time that training itself takes.

    The clock runs from :meth:`start` to :meth:`stop`; an evaluation or a checkpoint is between a stop and the next
    start. On CUDA a step returns before the device has finished it; :meth:`lap`, :meth:`summary` and :meth:`stop`
    also count the time that the host has waited for the device since.

    Args:
        device: Whose memory is reported.
        peak: Floating-point operations a second of all ranks' matrix products; 0 where they were not measured.
        clock: Returns seconds since any point in time.
    """

    def __init__(self, device: torch.device, peak: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._device, self._peak, self._clock = device, peak, clock
        self._mark: float | None = None
        self._all, self._recent = [0.0] * 4, [0.0] * 4  # seconds, pairs, tokens, operations

    def start(self) -> None:
        """Start the clock."""
        self._mark = self._clock()

    def stop(self) -> None:
        """Stop the clock until the next start."""
        self._pass_time()
        self._mark = None

    def step(self, pairs: int, tokens: int, flops: float) -> None:
        """Count a step that ends now.

        Args:
            pairs: Its pairs over all ranks.
            tokens: Their tokens, each prompt once.
            flops: The operations that the model needs for them, see `tasks.dpo.capacity.flops`.
        """
        self._pass_time()
        for totals in (self._all, self._recent):
            for i, amount in enumerate((pairs, tokens, flops)):
                totals[i + 1] += amount

    def lap(self) -> dict[str, float]:
        """Return the same as :meth:`summary` for the steps since the last lap, and begin the next lap."""
        self._pass_time()
        totals, self._recent = self._recent, [0.0] * 4
        return self._speed(totals)

    def summary(self) -> dict[str, float]:
        """Return the means of all steps so far: pairs and tokens a second, utilisation; and seconds and peak bytes.

        `utilisation` is missing where the machine's peak was not measured.
        """
        self._pass_time()
        return self._speed(self._all)

    def _speed(self, totals: list[float]) -> dict[str, float]:
        seconds, pairs, tokens, flops = totals
        per_second = 1 / seconds if seconds > 0 else 0.0
        speed = {"pairs_per_s": pairs * per_second, "tokens_per_s": tokens * per_second}
        if self._peak:
            speed["utilisation"] = flops * per_second / self._peak

        memory = peak_memory_bytes()["gpu" if self._device.type == "cuda" else "resident"]
        return {**speed, "seconds": seconds, "peak_bytes": float(memory)}

    def _pass_time(self) -> None:
        """Count the time since the clock was last read, if it runs."""
        if self._mark is not None:
            now = self._clock()
            for totals in (self._all, self._recent):
                totals[0] += now - self._mark
            self._mark = now


def in_one_line(speed: Mapping[str, float], row: Mapping[str, float]) -> str:
    """Return a lap's speed, the peak of memory, and loss, accuracy and margin of ``row`` as one line.

    It has at most 70 characters on any machine of today, so it fits beside a bar in 120 columns.
    """
    parts = [f"{_short(speed['pairs_per_s'])} pairs/s", f"{_short(speed['tokens_per_s'])} tok/s"]
    if "utilisation" in speed:
        parts.append(f"{100 * speed['utilisation']:.0f}% used")
    parts.append(in_words(int(speed["peak_bytes"])).replace(" ", ""))
    loss = f"{row['loss']:.3f}" if row["loss"] < 10 else _short(row["loss"])
    return " ".join([*parts, f"loss {loss} acc {row['accuracy']:.2f} margin {_short(row['margin'])}"])


def _short(number: float) -> str:
    """Return a number in at most five characters up to a billion: `0.52`, `12.3`, `850`, `15.2k`."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}" if abs(number) < 1000 * size else f"{number / size:.0f}{unit}"
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"
