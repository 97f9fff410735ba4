"""TRL's DPOTrainer as an arm, run by the Python of the peers' environment.

`trl_tuned`: reference precomputed, no gradient checkpointing, the micro-batch that the job names; on a CPU in
float32, and as `trl_tuned_bf16` in bfloat16 where the processor computes in it fast. `trl_default`: as it comes,
but for the global batch, the adapters, the learning rate and truncation, which every arm shares, and for its
bfloat16, which on a processor without it costs several times float32's time and is left off there. Token ids are
given as they are; the places where the trainer would tokenise are passed by.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset, load_from_disk
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from tests.bench.job import Job, Outcome, serve
from tests.bench.measure import BF16, StepClock, forget_peak, has_fast_bf16, peak_bytes, synchronise, versions
from tests.bench.shapes import build

COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
DEFAULT_MICRO_BATCH = 8


class Trainer(DPOTrainer):  # type: ignore[misc]
    """The trainer with ids taken as given, its losses noted and its precomputation timed."""

    noted: list[torch.Tensor]
    reference_seconds = 0.0

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        device = self.accelerator.device.type
        super()._precompute_ref_logps(dataset.select(range(2)), "warm-up", 1)
        synchronise(device)
        began = time.perf_counter()
        dataset = super()._precompute_ref_logps(dataset, name, batch_size)
        synchronise(device)
        self.reference_seconds = time.perf_counter() - began
        return dataset

    def compute_loss(self, *arguments: Any, **options: Any) -> Any:
        loss = super().compute_loss(*arguments, **options)
        self.noted.append(loss.detach())
        return loss


def settings(job: Job, folder: str) -> DPOConfig:
    """Return the configuration of the job's arm."""
    is_tuned = job.arm.startswith("trl_tuned")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    share = job.pairs_per_step // world
    micro_batch = min(job.micro_batch if is_tuned else DEFAULT_MICRO_BATCH, share)
    tuned = {"precompute_ref_log_probs": True, "gradient_checkpointing": False} if is_tuned else {}
    return DPOConfig(
        output_dir=folder,
        bf16=computes_in_bf16(job),
        beta=job.beta,
        learning_rate=job.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.01,
        max_grad_norm=1.0,
        num_train_epochs=1,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=share // micro_batch,
        train_sampling_strategy="sequential",
        max_length=None,
        seed=job.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=job.device == "cpu",
        dataloader_pin_memory=job.device != "cpu",
        **tuned,
        **({"ddp_backend": "gloo"} if job.device == "cpu" and world > 1 else {}),
    )


def computes_in_bf16(job: Job) -> bool:
    """Return whether the arm computes in bfloat16: on CUDA all do."""
    if job.device == "cuda":
        return True
    return job.arm.endswith(BF16) or (job.arm.startswith("trl_default") and has_fast_bf16(job.device))


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that the trainer may ask for its padding, and for nothing else."""
    words = Tokenizer(WordLevel({"<pad>": 0, "<begin>": 1, "<end>": 2}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>", bos_token="<begin>")


def dataset_of(job: Job) -> Dataset:
    """Return the job's pairs; ranks read them from one folder, where the trainer keeps what it precomputes."""
    dataset = Dataset.from_list([dict(zip(COLUMNS, row, strict=True)) for row in job.load_pairs().rows()])
    if (run := os.environ.get("TORCHELASTIC_RUN_ID")) is None:
        return dataset
    folder = Path(job.pairs).with_name(f"dataset-{run}")
    with PartialState(cpu=job.device == "cpu").main_process_first():
        if not folder.exists():
            dataset.save_to_disk(folder)
    return load_from_disk(folder)


def trainer_of(job: Job, folder: str) -> Trainer:
    """Build the trainer on the job's pairs, with the job's adapter weights."""
    config = settings(job, folder)
    is_whole = job.arm.startswith("trl_default") and job.device == "cuda"  # a model named by a path loads in float32
    model = build(job.model, job.device, "float32" if is_whole else None)
    lora = LoraConfig(
        r=job.rank,
        lora_alpha=2 * job.rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )
    forget_peak(job.device)
    trainer = Trainer(
        model, args=config, train_dataset=dataset_of(job), processing_class=word_tokenizer(), peft_config=lora
    )
    state = load_file(Path(job.adapter) / "adapter_model.safetensors")
    loaded = set_peft_model_state_dict(trainer.model, state)
    if loaded.unexpected_keys or len(state) != sum(p.requires_grad for p in trainer.model.parameters()):
        raise ValueError("the adapter's weights are not those of this model")
    trainer.noted = []
    return trainer


def main(job: Job) -> Outcome:
    """Do the job and tell what was measured."""
    if job.threads:
        torch.set_num_threads(job.threads)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(job, folder)
        outcome = Outcome(reference_seconds=trainer.reference_seconds, versions=versions())
        arguments = trainer.args
        outcome.notes = (
            f"micro-batch {arguments.per_device_train_batch_size}, "
            f"{'bf16' if arguments.bf16 else 'fp32'}, "
            f"reference {'precomputed' if arguments.precompute_ref_log_probs else 'in each step'}, "
            f"gradient checkpointing {'on' if arguments.gradient_checkpointing else 'off'}"
        )
        if job.work == "reference":
            columns = (trainer.train_dataset[name] for name in ("ref_chosen_logps", "ref_rejected_logps"))
            outcome.logps = [list(pair) for pair in zip(*columns, strict=True)]
        else:
            clock = StepClock(job.device)
            trainer.train()
            outcome.step_seconds = clock.seconds()
            per_step = arguments.gradient_accumulation_steps
            losses = [float(loss) for loss in trainer.noted]
            outcome.loss = [sum(losses[i : i + per_step]) / per_step for i in range(0, len(losses), per_step)]
        outcome.peak_bytes = peak_bytes(job.device)
    return outcome


if __name__ == "__main__":
    serve(Job, main)
