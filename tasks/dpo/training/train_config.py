"""What is trained: the params section `train`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from tasks.core.section import Section, above, at_least, between
from tasks.dpo.model.adapter import LoraSettings
from tasks.dpo.objective.pair_loss import ObjectiveConfig


@dataclasses.dataclass(frozen=True)
class ReferenceUpdate(Section, path="train.reference_update"):
    """Whether the reference moves while training; in the DPO paper it never does.

    Attributes:
        mode: `never`; `epoch` takes the policy as the reference at the start of every epoch but the first;
            `moving` averages the policy into it (TR-DPO, arXiv:2404.09656).
        mix: Of `moving`: the policy's share of each average.
        every_steps: Of `moving`: optimizer steps between two averages.
    """

    mode: Literal["never", "epoch", "moving"] = "never"
    mix: Annotated[float, between(0, 1, "(]")] = 0.6
    every_steps: Annotated[int, at_least(1)] = 64


@dataclasses.dataclass(frozen=True)
class TrainConfig(Section, path="train"):
    """What is trained: everything here changes the adapter, and nothing else does but the data.

    Attributes:
        objective: What is minimised.
        reference_update: Whether the reference moves.
        init_adapter: Folder or registry digest of the adapter that training starts from, which then is the
            reference too; None starts from the base.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: AdamW's decoupled decay of the adapters.
        max_grad_norm: The gradient's 2-norm is clipped to this.
        pairs_per_step: Pairs in one optimizer step over all machines.
        epochs: Passes over the training pairs.
        schedule: How the learning rate falls: `cosine`, `linear` or `constant`.
        warmup_share: Share of the steps in which the learning rate rises from zero.
        evaluations: Held-out evaluations during training, evenly spaced; the last is at the end.
        seed: Seed of the adapters' initial values, of the order of pairs and of dropout.
        lora: Shape of the adapter.
    """

    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    reference_update: ReferenceUpdate = dataclasses.field(default_factory=ReferenceUpdate)
    init_adapter: str | None = None
    learning_rate: Annotated[float, above(0, "for example 5e-6")] = 5e-6
    weight_decay: Annotated[float, at_least(0, "where 0 is off")] = 0.01
    max_grad_norm: Annotated[float, above(0, "for example 1.0")] = 1.0
    pairs_per_step: Annotated[int, at_least(1)] = 16
    epochs: Annotated[int, at_least(1)] = 1
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_share: Annotated[float, between(0, 1, "[)")] = 0.1
    evaluations: Annotated[int, at_least(1)] = 4
    seed: Annotated[int, at_least(0)] = 42
    lora: LoraSettings = dataclasses.field(default_factory=LoraSettings)
