"""The progress line: speeds over the time of training alone, by a clock of the test's own."""

from __future__ import annotations

import io
import re

import pytest
import torch
from tqdm import tqdm

from tasks.dpo.telemetry.meter import Meter, in_one_line

CPU = torch.device("cpu")
ROW = {"loss": 0.6931, "accuracy": 0.5625, "margin": 0.0123}


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def meter(peak: float = 0.0) -> tuple[Meter, Clock]:
    clock = Clock()
    return Meter(CPU, peak, clock), clock


def steps(found: Meter, clock: Clock, seconds: list[float], pairs: int = 16) -> None:
    found.start()
    for length in seconds:
        clock.now += length
        found.step(pairs, 100 * pairs, 1e9 * pairs)


def test_speed_is_amounts_over_seconds():
    found, clock = meter(peak=64e9)
    steps(found, clock, [1.0, 3.0])
    summary = found.summary()
    assert (summary["pairs_per_s"], summary["tokens_per_s"], summary["seconds"]) == (8.0, 800.0, 4.0)
    assert summary["utilisation"] == 8e9 / 64e9


def test_time_between_a_stop_and_the_next_start_does_not_count():
    found, clock = meter()
    steps(found, clock, [2.0])
    found.stop()
    clock.now += 50  # an evaluation
    steps(found, clock, [2.0])
    assert found.summary()["pairs_per_s"] == 32 / 4


def test_waiting_for_the_device_after_a_step_counts():
    found, clock = meter()
    steps(found, clock, [1.0])
    clock.now += 3.0
    assert in_one_line(found.lap(), ROW).startswith("4.00 pairs/s ")
    clock.now += 1.0
    found.stop()
    assert found.summary()["seconds"] == 5.0


def test_the_line_tells_the_speed_since_the_last_line_and_the_summary_that_of_all():
    found, clock = meter()
    steps(found, clock, [16.0])
    assert in_one_line(found.lap(), ROW).startswith("1.00 pairs/s 100 tok/s ")
    steps(found, clock, [4.0])
    assert in_one_line(found.lap(), ROW).startswith("4.00 pairs/s 400 tok/s ")
    assert found.summary()["pairs_per_s"] == 32 / 20


def test_the_line_tells_memory_loss_accuracy_and_margin():
    found, clock = meter(peak=100e9)
    steps(found, clock, [1.0])
    line = r"16.0 pairs/s 1.6k tok/s 16% used [\d.]+[MG]B loss 0.693 acc 0.56 margin 0.01"
    assert re.fullmatch(line, in_one_line(found.lap(), ROW))


def test_without_a_measured_peak_nothing_is_said_of_utilisation():
    found, clock = meter()
    steps(found, clock, [1.0])
    assert "used" not in in_one_line(found.lap(), ROW)
    assert "utilisation" not in found.summary()


def test_before_the_first_step_every_speed_is_zero():
    found, _ = meter(peak=1e9)
    assert in_one_line(found.lap(), ROW).startswith("0.00 pairs/s 0.00 tok/s 0% used ")
    assert found.summary()["pairs_per_s"] == 0


def test_a_resident_process_has_a_peak():
    assert meter()[0].summary()["peak_bytes"] > 10_000_000


@pytest.mark.parametrize("seconds", [1e-4, 0.3, 700.0])
def test_bar_and_line_fit_in_120_columns(seconds: float):
    found, clock = meter(peak=2e15)
    steps(found, clock, [seconds] * 3)
    text = in_one_line(found.lap(), {"loss": 12.3456, "accuracy": 1.0, "margin": -123.456})
    assert len(text) <= 70
    screen = io.StringIO()
    with tqdm(desc="train", total=12000, initial=4000, unit="step", ncols=120, file=screen) as bar:
        bar.set_postfix_str(text)
    last = screen.getvalue().strip().split("\r")[-1]
    assert len(last) <= 120
    assert "margin -123]" in last
