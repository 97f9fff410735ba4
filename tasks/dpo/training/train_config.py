"""What is trained: the params section `train`."""

from __future__ import annotations

import dataclasses
from typing import Literal

from tasks.core.params import check
from tasks.dpo.model.adapter import LoraSettings
from tasks.dpo.objective.pair_loss import ObjectiveConfig


@dataclasses.dataclass(frozen=True)
class ReferenceUpdate:
    """Whether the reference moves while training; DPO's own never does.

    Attributes:
        mode: `never`; `epoch` takes the policy as the reference at the start of every epoch but the first;
            `moving` averages the policy into it (TR-DPO, arXiv:2404.09656).
        mix: Of `moving`: the policy's share of each average.
        every_steps: Of `moving`: optimizer steps between two averages.
    """

    mode: Literal["never", "epoch", "moving"] = "never"
    mix: float = 0.6
    every_steps: int = 64

    def __post_init__(self) -> None:
        check(0 < self.mix <= 1, "train.reference_update.mix", self.mix, "give a share in (0, 1]")
        check(self.every_steps >= 1, "train.reference_update.every_steps", self.every_steps, "give 1 or more")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What is trained: everything here changes the adapter, and nothing else does but the data.

    Attributes:
        objective: What is made small.
        reference_update: Whether the reference moves.
        init_adapter: Folder or registry digest of the adapter that training goes on from, which then is the
            reference too; None starts from the base.
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

    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    reference_update: ReferenceUpdate = dataclasses.field(default_factory=ReferenceUpdate)
    init_adapter: str | None = None
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
        check(self.learning_rate > 0, "train.learning_rate", self.learning_rate, "give a number above 0, e.g. 5e-6")
        check(self.weight_decay >= 0, "train.weight_decay", self.weight_decay, "give 0 (off) or more")
        check(self.max_grad_norm > 0, "train.max_grad_norm", self.max_grad_norm, "give a number above 0, e.g. 1.0")
        check(self.pairs_per_step >= 1, "train.pairs_per_step", self.pairs_per_step, "give 1 or more")
        check(self.epochs >= 1, "train.epochs", self.epochs, "give 1 or more")
        check(0 <= self.warmup_share < 1, "train.warmup_share", self.warmup_share, "give a share in [0, 1)")
        check(self.evaluations >= 1, "train.evaluations", self.evaluations, "give 1 or more")
        check(self.seed >= 0, "train.seed", self.seed, "give 0 or more")
