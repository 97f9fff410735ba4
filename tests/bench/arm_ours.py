"""Our arm, as a process of its own: the reference beforehand, then the steps.

`ours_bf16` computes as `base.compute_dtype: bfloat16` has it on a CPU.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.core.runtime import RuntimeConfig
from tasks.dpo.capacity.step_plan import Plan
from tasks.dpo.dataset.scored_pairs import ScoredPairs
from tasks.dpo.model.adapter import LoraSettings, attach_lora
from tasks.dpo.model.cpu_bfloat16 import mix
from tasks.dpo.objective.pair_loss import ObjectiveConfig
from tasks.dpo.reference.reference_pass import reference_logps
from tasks.dpo.training.adapter_saving import save_adapter
from tasks.dpo.training.train_config import TrainConfig
from tasks.dpo.training.trainer import train
from tasks.pairs.tokens.token_cache import TokenPairs, TokenRow
from tests.bench.job import Job, Outcome, serve
from tests.bench.measure import BF16, StepClock, forget_peak, peak_bytes, synchronise, versions
from tests.bench.mechanisms import Setup, switched_off
from tests.bench.shapes import Pairs, build


def token_pairs(pairs: Pairs) -> TokenPairs:
    """Return the pairs as our token cache holds them."""
    rows = [TokenRow(*(np.asarray(part, np.int32) for part in row)) for row in pairs.rows()]
    names = [f"{i:016x}" for i in range(len(rows))]
    return TokenPairs.of_rows(rows, names, names)


def train_config(job: Job) -> TrainConfig:
    """Return what the job asks for; a constant rate, so that every arm has the same one in each step."""
    return TrainConfig(
        objective=ObjectiveConfig(beta=job.beta),
        learning_rate=job.learning_rate,
        pairs_per_step=job.pairs_per_step,
        schedule="constant",
        warmup_share=0.0,
        evaluations=1,
        seed=job.seed,
        lora=LoraSettings(rank=job.rank, alpha=2 * job.rank),
    )


def main(job: Job) -> Outcome:
    """Do the job and tell what was measured."""
    if job.threads:
        torch.set_num_threads(job.threads)
    config = train_config(job)
    base = build(job.model, job.device)
    if is_mixed := job.arm.endswith(BF16):
        mix(base)
    forget_peak(job.device)
    policy = attach_lora(base, config.lora, config.seed)
    if not (adapter := Path(job.adapter)).exists():
        adapter.mkdir(parents=True)
        save_adapter(policy, adapter)
    setup = Setup(
        RuntimeConfig(
            tokens_per_micro_batch=job.token_budget or "auto",
            device="auto" if job.device == "cuda" else "cpu",
            log_every_steps=1000,
            row_store="",
        )
    )
    tokens = token_pairs(unplanned(job.load_pairs(), config))
    outcome = Outcome(versions=versions(), notes=f"token budget {job.token_budget or 'auto'}{', bf16' * is_mixed}")
    with contextlib.ExitStack() as stack:
        for name in job.mechanisms_off:
            setup = stack.enter_context(switched_off(name, setup))
        scored, outcome.reference_seconds = _scored(policy, tokens, setup.runtime, job.device)
        if job.work == "reference":
            outcome.logps = planned_logps(scored, config)
        else:
            _steps(policy, scored, config, setup, job, outcome)
    outcome.peak_bytes = peak_bytes(job.device)
    return outcome


def _scored(policy: Any, tokens: TokenPairs, runtime: RuntimeConfig, device: str) -> tuple[ScoredPairs, float]:
    """Score the reference of all pairs and time it; a first call on two pairs is warm-up."""
    reference_logps(policy, picked_rows(tokens, range(min(2, len(tokens)))), runtime)
    synchronise(device)
    began = time.perf_counter()
    scored = reference_logps(policy, tokens, runtime)
    synchronise(device)
    return scored, time.perf_counter() - began


def _steps(policy: Any, scored: ScoredPairs, config: TrainConfig, setup: Setup, job: Job, outcome: Outcome) -> None:
    """Train for one epoch; one short held-out pair, evaluated outside the steps' times."""
    shortest = int(scored.tokens.lengths.sum(axis=1).argmin())
    held_out = reference_logps(policy, picked_rows(scored.tokens, [shortest]), setup.runtime)
    clock = StepClock(job.device)
    result = train(policy, scored, held_out, config, setup.runtime, mechanisms=setup.mechanisms)
    outcome.step_seconds = clock.seconds()
    outcome.loss = [row["loss"] for row in result.steps]


def picked_rows(tokens: TokenPairs, numbers: Iterable[int]) -> TokenPairs:
    """Return the named rows, in that order."""
    rows = [tokens.row(int(i)) for i in numbers]
    names = [f"{i:016x}" for i in range(len(rows))]
    return TokenPairs.of_rows(rows, names, names)


def plan_order(count: int, config: TrainConfig) -> Any:
    """Return the rows in the order in which the plan's steps take them, int64 [n]."""
    plan = Plan(count, config.pairs_per_step, 1, config.seed)
    return np.concatenate([plan.rows(step) for step in range(plan.steps)])


def unplanned(pairs: Pairs, config: TrainConfig) -> Pairs:
    """Put pairs that stand in the steps' order where our plan will take them from in that order."""
    return pairs.subset(np.argsort(plan_order(len(pairs), config)))


def planned_logps(scored: ScoredPairs, config: TrainConfig) -> list[list[float]]:
    """Return the summed log-probabilities, [n][2], in the steps' order."""
    sums = scored.sums(plan_order(len(scored), config))
    return torch.stack(sums, dim=1).double().tolist()


if __name__ == "__main__":
    serve(Job, main)
