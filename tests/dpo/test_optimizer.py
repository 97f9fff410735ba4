"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tasks.dpo.training.optimizer import learning_rates
from tests.dpo import tiny


def rates(schedule: Any, steps: int, warmup: float = 0.0) -> list[float]:
    config = tiny.config(schedule=schedule, learning_rate=1.0, warmup_share=warmup)
    rate: Callable[[int], float] = learning_rates(torch.optim.AdamW([torch.zeros(1)]), config, steps)
    return [rate(step) for step in range(steps)]


def test_warm_up_rises_in_equal_parts_from_a_first_step_that_moves():
    assert rates("constant", 10, 0.4) == pytest.approx([0.25, 0.5, 0.75, 1.0] + [1.0] * 6)


def test_cosine_falls_along_half_a_wave():
    # 8 steps, no warm-up: ½(1 + cos(π k/8))
    assert rates("cosine", 8) == pytest.approx([(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)])
    assert rates("cosine", 100)[-1] < 0.001


def test_linear_falls_in_equal_parts():
    assert rates("linear", 4) == pytest.approx([1.0, 0.75, 0.5, 0.25])
    # two steps of warm-up, then from the peak down over the six that are left
    assert rates("linear", 8, 0.25) == pytest.approx([0.5, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_constant_stays():
    assert rates("constant", 5) == [1.0] * 5


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99])
def test_every_step_of_every_run_moves(schedule: str, steps: int, warmup: float):
    every = rates(schedule, steps, warmup)
    assert all(0 < rate <= 1 for rate in every)
    assert max(every) == 1.0


def test_training_takes_its_steps_with_these_rates():
    config = tiny.config(pairs_per_step=2, learning_rate=1e-3, schedule="linear", warmup_share=0.25, lora=tiny.LORA)
    result, _ = tiny.run(tiny.pairs(16), config)
    assert [row["learning_rate"] for row in result.steps] == pytest.approx(
        [1e-3 * rate for rate in rates("linear", 8, 0.25)]
    )
