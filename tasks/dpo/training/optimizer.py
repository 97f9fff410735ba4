"""The optimizer of the adapters: AdamW, its learning rate, and the sum of the gradients over the ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import get_scheduler

from tasks.dpo.model.distributed import sum_over_ranks
from tasks.dpo.training.train_config import TrainConfig


class AdapterOptimizer:
    """AdamW over the adapters, whose learning rate is a pure function of the step.

    Args:
        parameters: The adapters.
        config: The learning rate, its schedule, and the limits.
        steps: Optimizer steps of the whole training.
        accelerator: This rank and the others.

    Attributes:
        learning_rate: Returns the learning rate of a step, counted from 0.
    """

    def __init__(
        self, parameters: Sequence[torch.nn.Parameter], config: TrainConfig, steps: int, accelerator: Accelerator
    ) -> None:
        self._parameters, self._max_norm, self._accelerator = parameters, config.max_grad_norm, accelerator
        self._adamw = torch.optim.AdamW(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.learning_rate = learning_rates(self._adamw, config, steps)

    def sum_gradients(self, wants_stop: bool, wants_save: bool) -> tuple[bool, bool]:
        """Sum the adapters' gradients over ranks; by the same all-reduce, return what any rank wants.

        A parameter that no pair of the step reached has gradient zero, on any number of ranks.
        """
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self._accelerator.num_processes == 1:
            return wants_stop, wants_save

        wishes = torch.tensor([wants_stop, wants_save], dtype=torch.float32, device=self._accelerator.device)
        gradients = [p.grad.reshape(-1) for p in self._parameters if p.grad is not None]
        flat = sum_over_ranks(self._accelerator, torch.cat([*gradients, wishes]))
        parts = torch.split(flat[:-2], [p.numel() for p in self._parameters])
        for parameter, part in zip(self._parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter).clone()
        return bool(flat[-2] > 0), bool(flat[-1] > 0)

    def step(self, step: int) -> Tensor:
        """Clip the gradients, do optimizer step ``step``, drop them; return their 2-norm before clipping, a scalar."""
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
        self._adamw.param_groups[0]["lr"] = self.learning_rate(step)
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        return norm

    def moments(self) -> dict[str, Tensor]:
        """Return AdamW's state as flat, named tensors: `exp_avg.<i>`, `exp_avg_sq.<i>`, `step.<i>` of parameter i."""
        state = self._adamw.state_dict()["state"]
        return {f"{name}.{i}": tensor for i, entry in state.items() for name, tensor in entry.items()}

    def restore(self, moments: dict[str, Tensor]) -> None:
        """Restore what :meth:`moments` returned."""
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in moments.items():
            name, _, index = key.rpartition(".")
            state.setdefault(int(index), {})[name] = tensor
        groups = self._adamw.state_dict()["param_groups"]
        self._adamw.load_state_dict({"state": state, "param_groups": groups})


def learning_rates(adamw: torch.optim.Optimizer, config: TrainConfig, steps: int) -> Callable[[int], float]:
    """Return the learning rate as a pure function of the step (from 0), after transformers' schedules.

    Warm-up counts steps from 1, so the first step's rate is above 0. A checkpoint needs no state of it.
    """
    warmup = math.ceil(steps * config.warmup_share)
    name = "constant_with_warmup" if config.schedule == "constant" else config.schedule
    shape = get_scheduler(name, adamw, num_warmup_steps=warmup, num_training_steps=steps).lr_lambdas[0]
    return lambda step: config.learning_rate * ((step + 1) / warmup if step < warmup else float(shape(step)))
