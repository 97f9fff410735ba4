"""The learning rate of each optimizer step."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import get_scheduler

from tasks.dpo.training.train_config import TrainConfig


def learning_rates(optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int) -> Any:
    """Return the learning rate as a pure function of the step (from 0), after transformers' schedules.

    Warm-up counts steps from 1, so the first step's rate is above 0. A checkpoint needs no state of it.
    """
    warmup = math.ceil(steps * config.warmup_share)
    name = "constant_with_warmup" if config.schedule == "constant" else config.schedule
    shape = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps).lr_lambdas[0]
    return lambda step: config.learning_rate * ((step + 1) / warmup if step < warmup else float(shape(step)))
