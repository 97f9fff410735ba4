"""The params section `runtime`: facts of this machine, which may change speed and never results."""

from __future__ import annotations

import dataclasses
from typing import Literal

from tasks.core.params import check


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
    """How much work this machine takes at once, and how often it saves and tells.

    Attributes:
        tokens_per_micro_batch: Padded tokens that one forward and backward may hold.
        checkpoint_every_s: Seconds between checkpoints of training.
        log_every_steps: Optimizer steps between two updates of the progress line.
        gradient_checkpointing: Recompute activations in backward: a third slower, far less memory.
        device: `auto` takes CUDA where there is some; `cpu` never does.
    """

    tokens_per_micro_batch: int = 8192
    checkpoint_every_s: float = 120.0
    log_every_steps: int = 10
    gradient_checkpointing: bool = False
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        check(
            self.tokens_per_micro_batch >= 1,
            "runtime.tokens_per_micro_batch",
            self.tokens_per_micro_batch,
            "give the tokens that fit in memory at once, for example 8192",
        )
        check(
            self.checkpoint_every_s > 0, "runtime.checkpoint_every_s", self.checkpoint_every_s, "give seconds above 0"
        )
        check(self.log_every_steps >= 1, "runtime.log_every_steps", self.log_every_steps, "give 1 or more")
