"""LoRA DPO: the loop over optimizer steps, exact on any number of ranks and any micro-batch size.

A step's pairs come from the plan. Each rank sums the loss over its micro-batches, divided by the
step's global pair count; the adapters' gradients are summed over ranks once a step. So one rank equals N
ranks, micro-batch 1 equals micro-batch 8, and a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from tasks.core.errors import DataError, Preempted
from tasks.core.runtime import RuntimeConfig
from tasks.core.stopping import StopRequest, listen_for_stop
from tasks.dpo.capacity.flops import ModelShape, matmul_rate
from tasks.dpo.capacity.memory import Recompute
from tasks.dpo.capacity.preflight import preflight
from tasks.dpo.capacity.step_plan import Plan, Sizes
from tasks.dpo.capacity.workload import Workload
from tasks.dpo.dataset.scored_pairs import ScoredPairs
from tasks.dpo.model.adapter import adapter_parameters
from tasks.dpo.model.cpu_bfloat16 import product_type
from tasks.dpo.model.distributed import from_main, open_accelerator
from tasks.dpo.model.sharding import is_sharded, place
from tasks.dpo.model.threads import suited_threads
from tasks.dpo.scoring.lora import drawing_by_batch
from tasks.dpo.scoring.scorer import Mechanisms, Scorer
from tasks.dpo.scoring.self_test import sample_rows
from tasks.dpo.telemetry.heap import Heap
from tasks.dpo.telemetry.trackers import Trackers
from tasks.dpo.telemetry.training_monitor import TrainingMonitor
from tasks.dpo.training import compiled_layers
from tasks.dpo.training.activation_checkpointing import set_modes
from tasks.dpo.training.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from tasks.dpo.training.moving_reference import MovingReference
from tasks.dpo.training.optimizer import AdapterOptimizer
from tasks.dpo.training.step import StepGradients
from tasks.dpo.training.train_config import TrainConfig
from tasks.dpo.training.training_curves import Curves, TrainResult
from tasks.telemetry import log

_log = log.get_logger(__name__)


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
        Preempted: SIGTERM or SIGINT came; a checkpoint is in ``checkpoints``.
        ConfigError: The loss or the gradient is NaN or inf, or one pair does not fit into memory.
        DataError: There are no training pairs, or no held-out pairs.
    """
    config, runtime, trackers = config or TrainConfig(), runtime or RuntimeConfig(), trackers or Trackers({})
    for name, part in (("train", train_set), ("held-out", test_set)):
        if len(part) == 0:
            raise DataError(f"there are no {name} pairs", "give at least one")

    accelerator = open_accelerator(runtime)
    place(policy, accelerator, runtime)
    set_modes(policy, Recompute.NONE)
    tokens = train_set.tokens
    with suited_threads(policy), Scorer(policy, sample_rows(tokens), mechanisms) as scorer, listen_for_stop() as stop:
        is_compiled = compiled_layers.is_wanted(runtime, accelerator.device) and not is_sharded(policy)
        _log_what_has_no_effect(scorer, runtime)
        # what fits decides what backward recomputes; compiled layers keep nothing selectively
        workload = Workload(Sizes.of(tokens, scorer.is_shared), config.pairs_per_step, config.epochs)
        levels = (Recompute.NONE, Recompute.FULL) if is_compiled else tuple(Recompute)
        choice = preflight(scorer, workload, runtime, accelerator, levels)
        set_modes(policy, choice.recompute)
        if is_compiled:
            compiled_layers.compile_layers(policy)

        return Trainer(
            scorer, train_set, test_set, config, runtime, accelerator, choice.tokens, stop, checkpoints, trackers
        ).run()


def _log_what_has_no_effect(scorer: Scorer, runtime: RuntimeConfig) -> None:
    """Log settings that have no effect here, and layers whose dropout depends on the cut into micro-batches."""
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
    """State of one training run: the policy, its optimizer, the curves so far.

    The arguments are those of :func:`train`, and:

    Args:
        scorer: Of the policy.
        accelerator: This rank and the others.
        tokens: Packed tokens of a micro-batch, the same on every rank.
        stop: Says when the process was asked to stop.
    """

    def __init__(
        self,
        scorer: Scorer,
        train_set: ScoredPairs,
        test_set: ScoredPairs,
        config: TrainConfig,
        runtime: RuntimeConfig,
        accelerator: Accelerator,
        tokens: int,
        stop: StopRequest,
        checkpoints: Path | None,
        trackers: Trackers,
    ) -> None:
        # What is given, and the order of the data
        self.config, self.runtime, self.checkpoints, self.stop = config, runtime, checkpoints, stop
        self.accelerator, self.device = accelerator, accelerator.device
        self.plan = Plan(len(train_set), config.pairs_per_step, config.epochs, config.seed)

        # What is trained, and how
        self.parameters = adapter_parameters(scorer.model)
        self.optimizer = AdapterOptimizer(self.parameters, config, self.plan.steps, accelerator)
        self.reference = MovingReference(self.parameters, config.reference_update, self.plan.steps_per_epoch)
        self.gradients = StepGradients(
            scorer, train_set, test_set, config, tokens, accelerator, self.reference, runtime.offload_activations
        )
        self.objective_state = self.gradients.loss.state0().to(self.device)

        # Observers, which no result depends on
        self._heap = Heap()
        self._monitor = TrainingMonitor(
            self.plan.steps,
            dataclasses.replace(self.gradients.train_sizes, is_shared=True),
            ModelShape.of(scorer.model),
            self.device,
            matmul_rate(self.device, product_type(scorer.model)) * accelerator.num_processes,
            trackers,
        )

        # Progress
        self.curves = Curves(accelerator, self.optimizer.learning_rate, self.gradients.loss.nll_weight, self._monitor)

    def run(self) -> TrainResult:
        """Train from the newest checkpoint, or from the start, to the end of the plan."""
        start = self._resume()
        if start == 0:
            self._evaluate_after(0)
        evaluations = self.config.evaluations
        evaluate_after = {round(self.plan.steps * k / evaluations) for k in range(1, evaluations + 1)}

        saved_at = time.monotonic()
        with self._monitor.running(start):
            for step in range(start, self.plan.steps):
                wants_save = time.monotonic() - saved_at > self.runtime.checkpoint_every_s
                must_stop, must_save = self._step(step, self.stop.is_set, wants_save)
                done = step + 1
                self._monitor.step_done(self.plan.rows(step))
                if done % self.runtime.log_every_steps == 0:
                    self.curves.flush()
                    self._monitor.lap(self.curves.steps[-1])
                if done in evaluate_after:
                    self._evaluate_after(done)

                # the end of the plan needs no checkpoint: the stage writes its results
                if (must_stop or must_save) and done < self.plan.steps:
                    self._save(done)
                    saved_at = time.monotonic()
                    if must_stop:
                        again = "to go on from there" if self.checkpoints else "from the start: nothing was saved"
                        raise Preempted(f"training was told to stop after step {done}", f"run again {again}")

        self.curves.flush()
        return TrainResult(self.curves.steps, self.curves.evals, self._monitor.speed(), start)

    def _evaluate_after(self, step: int) -> None:
        self.curves.flush()
        with self._monitor.paused():
            self.curves.add_eval(step, self.gradients.evaluate(self.objective_state))

    def _step(self, step: int, wants_stop: bool, wants_save: bool) -> tuple[bool, bool]:
        """Do one optimizer step; return whether any rank wants to stop, or to save."""
        self.reference.before(step)
        sums = self.gradients.accumulate(step, self.plan.rows(step), self.objective_state)
        self.objective_state = sums.state
        must_stop, must_save = self.optimizer.sum_gradients(wants_stop, wants_save)
        norm = self.optimizer.step(step)

        if self.device.type == "cpu":
            self._heap.after_step()
        self.curves.add_step(step, sums, norm)
        return must_stop, must_save

    def _save(self, step: int) -> None:
        """Write a checkpoint on rank 0, and wait for it on every rank."""
        self.curves.flush()
        with self._monitor.paused():
            if self.checkpoints is not None and self.accelerator.is_main_process:
                curves = {"steps": self.curves.steps, "evals": self.curves.evals}
                moments = self.optimizer.moments()
                state, reference = self.objective_state, self.reference.values
                save_checkpoint(self.checkpoints, Checkpoint(step, self.parameters, moments, curves, state, reference))
            self.accelerator.wait_for_everyone()

    def _resume(self) -> int:
        """Restore the newest checkpoint's state; return the step to go on from, 0 without one."""
        if self.checkpoints is None:
            return 0
        on_disk = newest_checkpoint(self.checkpoints) if self.accelerator.is_main_process else None
        checkpoint = from_main(self.accelerator, on_disk)  # ranks on other machines need not share the disk
        if checkpoint is None:
            return 0

        with torch.no_grad():
            for parameter, saved in zip(self.parameters, checkpoint.parameters, strict=True):
                parameter.copy_(saved)
        self.optimizer.restore(checkpoint.moments)
        self.curves.steps, self.curves.evals = checkpoint.curves["steps"], checkpoint.curves["evals"]
        self.objective_state = checkpoint.state.to(self.device)
        if checkpoint.reference:
            self.reference.restore(checkpoint.reference)
        _log.info("going on after step %d of %d", checkpoint.step, self.plan.steps)
        return checkpoint.step
