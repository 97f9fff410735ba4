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
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import get_scheduler

from tasks.core import log
from tasks.core.errors import ConfigError, DataError, Preempted
from tasks.core.params import check
from tasks.core.runtime import RuntimeConfig
from tasks.dpo import objectives
from tasks.dpo.checkpoint import Checkpoint, newest_checkpoint, optimizer_moments, restore_moments, save_checkpoint
from tasks.dpo.devices import accelerator, from_main, sum_over_ranks
from tasks.dpo.logps import Batch, Scorer, lay_out, sum_by_branch
from tasks.dpo.metrics import PairSums
from tasks.dpo.modes import evaluation_mode, set_modes
from tasks.dpo.plan import Plan, Rows, micro_batches, share
from tasks.dpo.policy import LoraSettings, adapter_parameters
from tasks.dpo.refcache import ScoredPairs
from tasks.dpo.stopping import StopRequest, listen_for_stop
from tasks.dpo.threads import suited_threads

_log = log.get_logger(__name__)
Curve = list[dict[str, float]]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What is trained: everything here changes the adapter, and nothing else does but the data.

    Attributes:
        objective: The preference loss; `sigmoid` is DPO as published.
        beta: β of Eq. 7 of arXiv:2305.18290.
        label_smoothing: Assumed share of wrong labels, in [0, 0.5).
        nll_weight: Weight of the chosen completions' negative log-likelihood (mean over the step's tokens).
        learning_rate: Peak step size of AdamW.
        weight_decay: AdamW's decoupled decay of the adapters.
        max_grad_norm: The gradient's 2-norm is clipped to this.
        pairs_per_step: Pairs in one optimizer step over all machines.
        epochs: Passes over the training pairs.
        schedule: How the step size falls: `cosine`, `linear` or `constant`.
        warmup_share: Share of the steps in which the step size rises from zero.
        evaluations: Held-out evaluations during training, evenly spaced; the last stands at the end.
        seed: Seed of the adapters' first values, of the order and of dropout.
        lora: Shape of the adapter.
    """

    objective: Literal["sigmoid"] = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    nll_weight: float = 0.0
    learning_rate: float = 5e-6
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    pairs_per_step: int = 16
    epochs: int = 1
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_share: float = 0.1
    evaluations: int = 4
    seed: int = 42
    lora: LoraSettings = dataclasses.field(default_factory=LoraSettings)

    def __post_init__(self) -> None:
        check(self.beta > 0, "train.beta", self.beta, "give a number above 0, for example 0.1")
        check(
            0 <= self.label_smoothing < 0.5, "train.label_smoothing", self.label_smoothing, "give a share in [0, 0.5)"
        )
        check(self.nll_weight >= 0, "train.nll_weight", self.nll_weight, "give 0 (off) or more")
        check(self.learning_rate > 0, "train.learning_rate", self.learning_rate, "give a number above 0, e.g. 5e-6")
        check(self.weight_decay >= 0, "train.weight_decay", self.weight_decay, "give 0 (off) or more")
        check(self.max_grad_norm > 0, "train.max_grad_norm", self.max_grad_norm, "give a number above 0, e.g. 1.0")
        check(self.pairs_per_step >= 1, "train.pairs_per_step", self.pairs_per_step, "give 1 or more")
        check(self.epochs >= 1, "train.epochs", self.epochs, "give 1 or more")
        check(0 <= self.warmup_share < 1, "train.warmup_share", self.warmup_share, "give a share in [0, 1)")
        check(self.evaluations >= 1, "train.evaluations", self.evaluations, "give 1 or more")
        check(self.seed >= 0, "train.seed", self.seed, "give 0 or more")


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The curves of a finished training; `before` and `after` are its first and last held-out rows.

    Attributes:
        steps: One row an optimizer step: means over its pairs, gradient norm, learning rate.
        evals: One row a held-out evaluation, the first before any step.
        pairs_per_s: Training pairs a second of this process's own steps (not for hashed outputs).
    """

    steps: Curve
    evals: Curve
    pairs_per_s: float

    @property
    def before(self) -> dict[str, float]:
        """Held-out numbers before the first step: loss ln 2, margin 0."""
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
) -> TrainResult:
    """Train the adapters of ``policy`` in place.

    Args:
        policy: A model from :func:`tasks.dpo.policy.attach_lora`.
        train_set: Training pairs with their reference log-probabilities.
        test_set: Held-out pairs likewise.
        config: What is trained.
        runtime: How this machine does it.
        checkpoints: A folder of this very run: training goes on from the newest checkpoint there.

    Raises:
        Preempted: SIGTERM or SIGINT came; a checkpoint stands in ``checkpoints``.
        ConfigError: The loss or gradient is no finite number any more.
    """
    trainer = Trainer(policy, train_set, test_set, config or TrainConfig(), runtime or RuntimeConfig(), checkpoints)
    with listen_for_stop() as stop, suited_threads(policy):
        return trainer.run(stop)


class Trainer:
    """State of one training run: the policy, its optimizer, the curves so far."""

    def __init__(
        self,
        policy: Any,
        train_set: ScoredPairs,
        test_set: ScoredPairs,
        config: TrainConfig,
        runtime: RuntimeConfig,
        checkpoints: Path | None = None,
    ) -> None:
        for name, part in (("train", train_set), ("held-out", test_set)):
            if len(part) == 0:
                raise DataError(f"there are no {name} pairs", "give at least one")
        self.config, self.runtime, self.checkpoints = config, runtime, checkpoints
        self.train_set, self.test_set = train_set, test_set
        self.accelerator = accelerator(runtime)
        self.device = self.accelerator.device
        self.policy = policy.to(self.device)
        set_modes(policy, runtime.gradient_checkpointing)
        self.scorer = Scorer(policy)
        self.parameters = adapter_parameters(policy)
        self.plan = Plan(len(train_set), config.pairs_per_step, config.epochs, config.seed)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=self.device.type == "cuda"
        )
        self.steps: Curve = []
        self.evals: Curve = []
        self._pending: list[tuple[int, Tensor]] = []
        self._rate = learning_rates(self.optimizer, config, self.plan.steps)

    def run(self, stop: StopRequest) -> TrainResult:
        """Train from the newest checkpoint, or from the start, to the end of the plan."""
        start = self._resume()
        if start == 0:
            self._record_evaluation(0)
        evaluate_after = {
            round(self.plan.steps * k / self.config.evaluations) for k in range(1, self.config.evaluations + 1)
        }
        began = saved = time.monotonic()
        pairs = 0
        with log.bar("train", self.plan.steps, start, "step") as bar:
            for step in range(start, self.plan.steps):
                is_due = time.monotonic() - saved > self.runtime.checkpoint_every_s
                must_stop, must_save = self._step(step, stop.is_set, is_due)
                pairs += len(self.plan.rows(step))
                bar.update()
                if step + 1 in evaluate_after:
                    self._flush()
                    self._record_evaluation(step + 1)
                if (step + 1) % self.runtime.log_every_steps == 0:
                    self._flush()
                    bar.set_postfix_str(_tell(self.steps[-1]))
                if (must_stop or must_save) and step + 1 < self.plan.steps:
                    self._save(step + 1)
                    saved = time.monotonic()
                    if must_stop:
                        again = "to go on from there" if self.checkpoints else "from the start: nothing was saved"
                        raise Preempted(f"training was told to stop after step {step + 1}", f"run again {again}")
        self._flush()
        return TrainResult(self.steps, self.evals, pairs / max(time.monotonic() - began, 1e-9))

    def evaluate(self) -> dict[str, float]:
        """Return the held-out means under the policy as it is now."""
        with torch.inference_mode(), evaluation_mode(self.policy):
            sums = PairSums.zero(self.device)
            for rows in self._micro_batches(self.test_set, np.arange(len(self.test_set))):
                sums += self._forward(self.test_set, rows)[0]
        return PairSums(sum_over_ranks(self.accelerator, sums.values)).means()

    def _record_evaluation(self, step: int) -> None:
        row = {"step": float(step), **self.evaluate()}
        _refuse_divergence(f"the held-out evaluation after step {step}", row)
        self.evals.append(row)

    def _step(self, step: int, wants_stop: bool, wants_save: bool) -> tuple[bool, bool]:
        """Do one optimizer step; return whether any rank wants to stop, or to save."""
        rows = self.plan.rows(step)
        chosen_tokens = int(self.train_set.tokens.lengths[rows, 1].sum())
        sums, nll = PairSums.zero(self.device), torch.zeros((), dtype=torch.float64, device=self.device)
        for part in self._micro_batches(self.train_set, rows):
            self._seed_dropout(step, int(part[0]))
            found, losses_n, chosen_nll = self._forward(self.train_set, part)
            loss = losses_n.sum() / len(rows) + self.config.nll_weight * chosen_nll / chosen_tokens
            self.accelerator.backward(loss)
            sums, nll = sums + found, nll + chosen_nll.detach().double()
        must_stop, must_save = self._sum_gradients(wants_stop, wants_save)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.optimizer.param_groups[0]["lr"] = self._rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._pending.append((step, torch.cat([sums.values, (nll / chosen_tokens)[None], norm.double()[None]])))
        return must_stop, must_save

    def _forward(self, data: ScoredPairs, rows: Rows) -> tuple[PairSums, Tensor, Tensor]:
        """Score one micro-batch: (its sums, the loss of each pair, Σ negative log-likelihood of chosen)."""
        batch: Batch = lay_out([data.tokens.row(int(row)) for row in rows]).to(self.device)
        with self.accelerator.autocast():
            logps_t = self.scorer.logps(batch)
        policy = sum_by_branch(logps_t, batch)
        reference = tuple(sums.to(self.device) for sums in data.sums(rows))
        margin_n = objectives.log_ratio_margin(*policy, *reference)
        objective = objectives.OBJECTIVES[self.config.objective]
        losses_n = objective(margin_n, self.config.beta, self.config.label_smoothing)
        chosen_nll = objectives.negative_log_likelihood(logps_t[batch.sequence_T % 2 == 0])
        return PairSums.of(losses_n, policy, (reference[0], reference[1]), self.config.beta), losses_n, chosen_nll

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

    def _micro_batches(self, data: ScoredPairs, rows: Rows) -> list[Rows]:
        ranks = self.accelerator.num_processes
        batches = micro_batches(rows, data.widths, self.runtime.tokens_per_micro_batch, ranks)
        return share(batches, data.widths, self.accelerator.process_index, ranks)

    def _seed_dropout(self, step: int, row: int) -> None:
        if self.config.lora.dropout:
            torch.manual_seed(int(np.random.SeedSequence([self.config.seed, step, row]).generate_state(1)[0]))

    def _flush(self) -> None:
        """Move the pending steps' sums to the host, reduced over ranks, as rows of the curve."""
        if not self._pending:
            return
        table = torch.stack([values for _, values in self._pending])
        summed = sum_over_ranks(self.accelerator, table.clone())
        for (step, _), own, total in zip(self._pending, table, summed, strict=True):
            row = {
                "step": step + 1.0,
                **PairSums(total[:-2]).means(),
                "nll": float(total[-2]),
                "grad_norm": float(own[-1]),
            }
            _refuse_divergence(f"step {step + 1}", row)
            self.steps.append({**row, "learning_rate": self._rate(step)})
        self._pending.clear()

    def _save(self, step: int) -> None:
        self._flush()
        if self.checkpoints is not None and self.accelerator.is_main_process:
            curves = {"steps": self.steps, "evals": self.evals}
            save_checkpoint(
                self.checkpoints, Checkpoint(step, self.parameters, optimizer_moments(self.optimizer), curves)
            )
        self.accelerator.wait_for_everyone()

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
        _log.info("going on after step %d of %d", found.step, self.plan.steps)
        return found.step


def learning_rates(optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int) -> Any:
    """Return the learning rate as a pure function of the step (from 0), after transformers' schedules.

    Warm-up is counted from 1, so that the first step moves; nothing has to be saved or restored.
    """
    warmup = math.ceil(steps * config.warmup_share)
    name = "constant_with_warmup" if config.schedule == "constant" else config.schedule
    shape = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps).lr_lambdas[0]
    return lambda step: config.learning_rate * ((step + 1) / warmup if step < warmup else float(shape(step)))


def _refuse_divergence(where: str, row: dict[str, float]) -> None:
    wrong = [f"{name} {value}" for name, value in row.items() if not math.isfinite(value)]
    if wrong:
        raise ConfigError(
            f"training diverged: {where} has {', '.join(wrong)}",
            "lower `train.learning_rate`, or look at the data of that step",
        )


def _tell(row: dict[str, float]) -> str:
    return f"loss {row['loss']:.3f}, accuracy {row['accuracy']:.2f}, margin {row['margin']:.2f}"
