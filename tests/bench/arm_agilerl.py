"""AgileRL's DPO as an arm, run by the Python of the peers' environment.

`agilerl`: NLL weight 0, dropout 0, no gradient checkpointing, Liger off, one epoch, its reference taken with
the adapters off (it keeps no second adapter), batches of the job's micro-batch, gradients gathered up to the
global batch: `learn` is given a micro-batch at a time, so that nothing is padded beyond it. Its garbage
collection in each call stays; `agilerl_no_gc` takes it out. `agilerl_bf16` has its base in bfloat16, on a CPU
too. The loop around `learn` is ours: batches are handed over as tensors, without its three passes of tokenising.
"""

from __future__ import annotations

import itertools
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import agilerl
import torch

agilerl.HAS_LIGER_KERNEL = False  # both are read when its algorithms are imported
agilerl.HAS_LLM_DEPENDENCIES = True

from agilerl.algorithms import dpo  # noqa: E402
from peft import LoraConfig, set_peft_model_state_dict  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from tests.bench.job import Job, Outcome, serve  # noqa: E402
from tests.bench.measure import BF16, StepClock, forget_peak, peak_bytes, versions  # noqa: E402
from tests.bench.shapes import build  # noqa: E402


def batch_of(rows: list[list[list[int]]]) -> dict[str, Any]:
    """Return rows of ids in the form that `learn` takes: padded on the right to the longest of both branches."""
    branches = {name: [row[0] + row[place] for row in rows] for place, name in ((1, "chosen"), (2, "rejected"))}
    width = max(len(ids) for every in branches.values() for ids in every)
    batch: dict[str, Any] = {"prompt_lengths": [len(row[0]) for row in rows]}
    for name, every in branches.items():
        batch[f"{name}_input_ids"] = torch.tensor([ids + [0] * (width - len(ids)) for ids in every])
        batch[f"{name}_attention_mask"] = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in every])
    return batch


def agent_of(job: Job) -> Any:
    """Build AgileRL's agent with the job's adapter weights."""
    lora = LoraConfig(
        r=job.rank,
        lora_alpha=2 * job.rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )
    base = build(job.model, job.device, "bfloat16" if job.arm.endswith(BF16) else None)
    forget_peak(job.device)
    agent = dpo.DPO(
        pad_token_id=0,
        pad_token="<pad>",
        actor_network=base,
        batch_size=job.pairs_per_step,
        micro_batch_size_per_gpu=job.micro_batch,
        lr=job.learning_rate,
        beta=job.beta,
        nll_alpha=0.0,
        max_grad_norm=1.0,
        lora_config=lora,
        gradient_checkpointing=False,
        use_liger_loss=False,
        use_separate_reference_adapter=False,
        device=job.device,
        seed=job.seed,
    )
    state = load_file(Path(job.adapter) / "adapter_model.safetensors")
    loaded = set_peft_model_state_dict(agent.actor, state, adapter_name="actor")
    if loaded.unexpected_keys:
        raise ValueError("the adapter's weights are not those of this model")
    return agent


def learn(agent: Any, job: Job) -> Iterator[float]:
    """Hand over the pairs, a micro-batch at a time; yield the sum of the losses of each one's pairs.

    What it reports is the micro-batch's mean loss divided by its pairs once more.
    """
    rows = job.load_pairs().rows()
    whole = len(rows) - len(rows) % job.pairs_per_step
    for start in range(0, whole, job.micro_batch):
        part = rows[start : start + job.micro_batch]
        yield agent.learn(batch_of(part))["loss"] * len(part) * len(part)


def main(job: Job) -> Outcome:
    """Do the job and tell what was measured."""
    warnings.simplefilter("ignore")
    if job.threads:
        torch.set_num_threads(job.threads)
    if job.arm.startswith("agilerl_no_gc"):
        dpo.gc = types.SimpleNamespace(collect=lambda: 0)
    agent = agent_of(job)
    clock = StepClock(job.device)
    losses = learn(agent, job)
    batches = job.pairs_per_step // job.micro_batch
    steps = iter(lambda: list(itertools.islice(losses, batches)), [])
    outcome = Outcome(loss=[sum(step) / job.pairs_per_step for step in steps], versions=versions())
    outcome.step_seconds = clock.seconds()
    outcome.peak_bytes = peak_bytes(job.device)
    kind = "bf16, " if job.arm.endswith(BF16) else ""
    outcome.notes = f"micro-batch {job.micro_batch}, {kind}reference in each step, gradient checkpointing off"
    return outcome


if __name__ == "__main__":
    serve(Job, main)
