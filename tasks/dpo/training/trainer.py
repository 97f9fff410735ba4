"""LoRA DPO: the loop over optimizer steps, exact on any number of ranks and any micro-batch size.

A step's pairs come from the plan. Each rank sums the loss over its micro-batches, divided by the
step's global pair count; the adapters' gradients are summed over ranks once. So one rank equals N
ranks, micro-batch 1 equals micro-batch 8, and a resumed run equals a straight one.
"""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.core.errors import ConfigError, DataError, Preempted
from tasks.core.runtime import RuntimeConfig
from tasks.core.stopping import StopRequest, listen_for_stop
from tasks.dpo.capacity.flops import ModelShape, matmul_rate, training_flops
from tasks.dpo.capacity.memory import Recompute
from tasks.dpo.capacity.preflight import preflight
from tasks.dpo.capacity.step_plan import Plan, Sizes
from tasks.dpo.capacity.workload import Workload
from tasks.dpo.dataset.scored_pairs import ScoredPairs
from tasks.dpo.model.adapter import adapter_parameters
from tasks.dpo.model.cpu_bfloat16 import product_type
from tasks.dpo.model.distributed import from_main, open_accelerator, sum_over_ranks
from tasks.dpo.model.sharding import is_sharded, place
from tasks.dpo.model.threads import suited_threads
from tasks.dpo.objective.metrics import PairSums, with_nll
from tasks.dpo.scoring.lora import drawing_by_batch
from tasks.dpo.scoring.scorer import Mechanisms, Scorer, sample_rows
from tasks.dpo.telemetry.heap import Heap
from tasks.dpo.telemetry.meter import Meter, in_one_line
from tasks.dpo.telemetry.trackers import Trackers
from tasks.dpo.training import compiled_layers
from tasks.dpo.training.activation_checkpointing import set_modes
from tasks.dpo.training.checkpoint import (
    Checkpoint,
    newest_checkpoint,
    optimizer_moments,
    restore_moments,
    save_checkpoint,
)
from tasks.dpo.training.moving_reference import MovingReference
from tasks.dpo.training.schedule import learning_rates
from tasks.dpo.training.step import StepGradients
from tasks.dpo.training.train_config import TrainConfig
from tasks.telemetry import log

_log = log.get_logger(__name__)
Curve = list[dict[str, float]]


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The curves of a finished training; `before` and `after` are its first and last held-out rows.

    Attributes:
        steps: One row an optimizer step: means over its pairs, gradient norm, learning rate.
        evals: One row a held-out evaluation, the first before any step.
        step_seconds: Wall-clock seconds of this process's own steps (not for hashed outputs).
        speed: Of those steps: pairs and tokens a second, utilisation, seconds, peak bytes (see `progress.Meter`).
        resumed_after: The step after which the checkpoint stood that this process went on from; 0 without one.
    """

    steps: Curve
    evals: Curve
    step_seconds: list[float]
    speed: dict[str, float]
    resumed_after: int = 0

    @property
    def pairs_per_s(self) -> float:
        """Training pairs a second."""
        return self.speed["pairs_per_s"]

    @property
    def before(self) -> dict[str, float]:
        """Held-out numbers before the first step: margin 0, and loss ln 2 for plain DPO."""
        return self.evals[0]

    @property
    def after(self) -> dict[str, float]:
        """Held-out numbers of the trained adapter."""
        return self.evals[-1]


def train(
    policy: Any,
    train_set: ScoredPairs,
    test_set: ScoredPairs,
    config: TrainConfig | None = None,
    runtime: RuntimeConfig | None = None,
    checkpoints: Path | None = None,
    trackers: Trackers | None = None,
    mechanisms: Mechanisms | None = None,
) -> TrainResult:
    """Train the adapters of ``policy`` in place.

    Args:
        policy: A model from :func:`tasks.dpo.model.adapter.attach_lora`.
        train_set: Training pairs with their reference log-probabilities.
        test_set: Held-out pairs likewise.
        config: What is trained.
        runtime: How this machine does it.
        checkpoints: A folder of this very run: training goes on from the newest checkpoint there.
        trackers: Where the curves are also sent.
        mechanisms: What to switch off, for measuring.

    Raises:
        Preempted: SIGTERM or SIGINT came; a checkpoint stands in ``checkpoints``.
        ConfigError: The loss or gradient is no finite number any more, or one pair does not fit into memory.
    """
    config, runtime = config or TrainConfig(), runtime or RuntimeConfig()
    for name, part in (("train", train_set), ("held-out", test_set)):
        if len(part) == 0:
            raise DataError(f"there are no {name} pairs", "give at least one")
    device = open_accelerator(runtime)
    place(policy, device, runtime)
    set_modes(policy, Recompute.NONE)
    with (
        suited_threads(policy),
        Scorer(policy, sample_rows(train_set.tokens), mechanisms) as scorer,
        listen_for_stop() as stop,
    ):
        workload = Workload(Sizes.of(train_set.tokens, scorer.is_shared), config.pairs_per_step, config.epochs)
        is_compiled = compiled_layers.is_wanted(runtime, device.device) and not is_sharded(policy)
        _tell_limits(scorer, runtime)
        # compiled layers keep nothing selectively
        levels = tuple(level for level in Recompute if not (is_compiled and level is Recompute.SELECTIVE))
        choice = preflight(scorer, workload, runtime, device, levels)
        set_modes(policy, choice.recompute)
        if is_compiled:
            compiled_layers.compile_layers(policy)
        trainer = Trainer(scorer, train_set, test_set, config, runtime, choice.tokens, checkpoints)
        trainer.trackers = trackers or trainer.trackers
        return trainer.run(stop)


def _tell_limits(scorer: Scorer, runtime: RuntimeConfig) -> None:
    """Say what was asked for and does not hold here."""
    if runtime.compile == "on" and is_sharded(scorer.model):
        _log.info("`runtime.compile: on` has no effect here: the layers of a sharded base are not compiled")
    if count := drawing_by_batch(scorer.model):
        _log.info(
            "%d adapted layer%s by micro-batch (the head, or no plain linear layer): "
            "results depend on `runtime.tokens_per_micro_batch` and on the number of ranks",
            count,
            " draws its dropout" if count == 1 else "s draw their dropout",
        )


class Trainer:
    """State of one training run: the policy, its optimizer, the curves so far."""

    def __init__(
        self,
        scorer: Scorer,
        train_set: ScoredPairs,
        test_set: ScoredPairs,
        config: TrainConfig,
        runtime: RuntimeConfig,
        tokens: int,
        checkpoints: Path | None = None,
    ) -> None:
        self.config, self.runtime, self.checkpoints = config, runtime, checkpoints
        self.accelerator = open_accelerator(runtime)
        self.device, self.ranks = self.accelerator.device, self.accelerator.num_processes
        self.parameters = adapter_parameters(scorer.model)
        self.plan = Plan(len(train_set), config.pairs_per_step, config.epochs, config.seed)
        self.reference = MovingReference(self.parameters, config.reference_update, self.plan.steps_per_epoch)
        self.work = StepGradients(scorer, (train_set, test_set), config, tokens, self.accelerator, self.reference)
        self.work.offloads = runtime.offload_activations
        self.state = self.work.loss.state0().to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.shape = ModelShape.of(scorer.model)
        self.sizes = self.work.sizes
        self.trackers = Trackers({})
        self.meter = Meter(self.device, matmul_rate(self.device, product_type(scorer.model)) * self.ranks)
        self.steps: Curve = []
        self.evals: Curve = []
        self._heap = Heap()
        self._pending: list[tuple[int, Tensor]] = []
        self._rate = learning_rates(self.optimizer, config, self.plan.steps)

    def run(self, stop: StopRequest) -> TrainResult:
        """Train from the newest checkpoint, or from the start, to the end of the plan."""
        start = self._resume()
        if start == 0:
            self._evaluate_after(0)
        evaluations = self.config.evaluations
        evaluate_after = {round(self.plan.steps * k / evaluations) for k in range(1, evaluations + 1)}
        saved = time.monotonic()
        seconds: list[float] = []
        self.trackers.log({"steps": float(self.plan.steps)}, start, part="plan")
        self.meter.start()
        with log.bar("train", self.plan.steps, start, "step") as bar:
            for step in range(start, self.plan.steps):
                began = time.monotonic()
                must_stop, must_save = self._step(step, stop.is_set, began - saved > self.runtime.checkpoint_every_s)
                self._count(step)
                seconds.append(time.monotonic() - began)
                bar.update()
                if (step + 1) % self.runtime.log_every_steps == 0:
                    self._flush()
                    speed = self.meter.lap()
                    self.trackers.log(speed, step + 1, part="speed")
                    bar.set_postfix_str(in_one_line(speed, self.steps[-1]))
                if step + 1 in evaluate_after:
                    self._evaluate_after(step + 1)
                if (must_stop or must_save) and step + 1 < self.plan.steps:
                    self._save(step + 1)
                    saved = time.monotonic()
                    if must_stop:
                        again = "to go on from there" if self.checkpoints else "from the start: nothing was saved"
                        raise Preempted(f"training was told to stop after step {step + 1}", f"run again {again}")
        self._flush()
        return TrainResult(self.steps, self.evals, seconds, self.meter.summary(), start)

    def _evaluate_after(self, step: int) -> None:
        self._flush()
        self.meter.stop()
        row = {"step": float(step), **self.work.evaluate(self.state)}
        _refuse_divergence(f"the held-out evaluation after step {step}", row)
        self.evals.append(row)
        self.trackers.log(row, step, part="eval")
        self.meter.start()

    def _count(self, step: int) -> None:
        rows = self.plan.rows(step)
        self.meter.step(len(rows), self.sizes.tokens(rows), training_flops(self.shape, self.sizes.lengths[rows]))

    def _step(self, step: int, wants_stop: bool, wants_save: bool) -> tuple[bool, bool]:
        """Do one optimizer step; return whether any rank wants to stop, or to save."""
        self.reference.before(step)
        found = self.work.accumulate(step, self.plan.rows(step), self.state)
        self.state = found.state
        must_stop, must_save = self._sum_gradients(wants_stop, wants_save)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.optimizer.param_groups[0]["lr"] = self._rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cpu":
            self._heap.after_step()
        self._pending.append((step, torch.cat([found.pairs.values, found.nll[None], norm.double()[None]])))
        return must_stop, must_save

    def _sum_gradients(self, wants_stop: bool, wants_save: bool) -> tuple[bool, bool]:
        """Sum the adapters' gradients over ranks, and learn in the same message what any rank wants.

        A parameter that no pair of the step reached has gradient zero, on any number of ranks.
        """
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.accelerator.num_processes == 1:
            return wants_stop, wants_save
        wishes = torch.tensor([wants_stop, wants_save], dtype=torch.float32, device=self.device)
        gradients = [p.grad.reshape(-1) for p in self.parameters if p.grad is not None]
        flat = sum_over_ranks(self.accelerator, torch.cat([*gradients, wishes]))
        for parameter, part in zip(
            self.parameters, torch.split(flat[:-2], [p.numel() for p in self.parameters]), strict=True
        ):
            parameter.grad = part.view_as(parameter).clone()
        return bool(flat[-2] > 0), bool(flat[-1] > 0)

    def _flush(self) -> None:
        """Move the pending steps' sums to the host, reduced over ranks, as rows of the curve."""
        if not self._pending:
            return
        table = torch.stack([values for _, values in self._pending])
        summed = sum_over_ranks(self.accelerator, table.clone())
        for (step, _), own, total in zip(self._pending, table, summed, strict=True):
            row = {
                "step": step + 1.0,
                **with_nll(PairSums(total[:-2]).means(), float(total[-2]), self.work.loss.nll_weight),
                "grad_norm": float(own[-1]),
            }
            _refuse_divergence(f"step {step + 1}", row)
            self.steps.append({**row, "learning_rate": self._rate(step)})
            self.trackers.log(self.steps[-1], step + 1)
        self._pending.clear()

    def _save(self, step: int) -> None:
        self._flush()
        self.meter.stop()
        if self.checkpoints is not None and self.accelerator.is_main_process:
            curves = {"steps": self.steps, "evals": self.evals}
            moments = optimizer_moments(self.optimizer)
            now = Checkpoint(step, self.parameters, moments, curves, self.state, self.reference.values)
            save_checkpoint(self.checkpoints, now)
        self.accelerator.wait_for_everyone()
        self.meter.start()

    def _resume(self) -> int:
        """Put back the newest checkpoint's state; return the step to go on from, 0 without one."""
        if self.checkpoints is None:
            return 0
        own = newest_checkpoint(self.checkpoints) if self.accelerator.is_main_process else None
        found = from_main(self.accelerator, own)  # ranks on other machines need not share the disk
        if found is None:
            return 0
        with torch.no_grad():
            for parameter, saved in zip(self.parameters, found.parameters, strict=True):
                parameter.copy_(saved)
        restore_moments(self.optimizer, found.moments)
        self.steps, self.evals = found.curves["steps"], found.curves["evals"]
        self.state = found.state.to(self.device)
        if found.reference:
            self.reference.restore(found.reference)
        _log.info("going on after step %d of %d", found.step, self.plan.steps)
        return found.step


def _refuse_divergence(where: str, row: dict[str, float]) -> None:
    wrong = [f"{name} {value}" for name, value in row.items() if not math.isfinite(value)]
    if wrong:
        raise ConfigError(
            f"training diverged: {where} has {', '.join(wrong)}",
            "lower `train.learning_rate`, or look at the data of that step",
        )
