"""The params section `runtime`: facts of this machine, which may change speed and never results."""

from __future__ import annotations

import dataclasses
from typing import Literal

from tasks.core.params import check

Tracker = Literal["tensorboard", "wandb", "mlflow", "dvclive"]


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
    """How this machine is used: how much it takes at once, how often it saves, what it tells and to whom.

    Attributes:
        tokens_per_micro_batch: Tokens of pairs, each prompt once, that one forward and backward may hold; `auto`
            takes what memory allows.
        gradient_checkpointing: Recompute activations in backward: up to a half slower, far less memory; `auto` does
            so where memory asks for it.
        compile: Let torch.compile fuse the layers of the model: `auto` does so on CUDA.
        sharding: Share the base's frozen weights out over all ranks, for one that does not fit on a GPU: by torch's own
            FSDP2 (`fsdp`) or by DeepSpeed's ZeRO (`deepspeed`).
        offload_activations: Keep what backward needs in the host's memory.
        checkpoint_every_s: Seconds between checkpoints of training.
        log_every_steps: Optimizer steps between two updates of the progress line.
        trackers: Where the curves are also sent while training runs; none when empty.
        metrics_port: Port on which training serves its numbers to Prometheus; 0 serves none.
        metrics_host: Address of this machine that the port is opened at.
        row_store: Folder or `s3://BUCKET/PREFIX` of what was computed for single rows; off when empty.
        device: `auto` takes CUDA where there is some; `cpu` never does.
    """

    tokens_per_micro_batch: int | Literal["auto"] = 8192
    gradient_checkpointing: bool | Literal["auto"] = False
    compile: Literal["auto", "on", "off"] = "off"
    sharding: Literal["none", "fsdp", "deepspeed"] = "none"
    offload_activations: bool = False
    checkpoint_every_s: float = 120.0
    log_every_steps: int = 10
    trackers: tuple[Tracker, ...] = ()
    metrics_port: int = 0
    metrics_host: str = "127.0.0.1"
    row_store: str = "runs/rows"
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        check(
            self.tokens_per_micro_batch == "auto" or self.tokens_per_micro_batch >= 1,
            "runtime.tokens_per_micro_batch",
            self.tokens_per_micro_batch,
            "give `auto`, or the tokens that fit in memory at once, for example 8192",
        )
        check(
            self.checkpoint_every_s > 0, "runtime.checkpoint_every_s", self.checkpoint_every_s, "give seconds above 0"
        )
        check(self.log_every_steps >= 1, "runtime.log_every_steps", self.log_every_steps, "give 1 or more")
        check(
            len(set(self.trackers)) == len(self.trackers), "runtime.trackers", self.trackers, "name each tracker once"
        )
        check(
            0 <= self.metrics_port <= 65535,
            "runtime.metrics_port",
            self.metrics_port,
            "give a port up to 65535, for example 9464, or 0 for none",
        )
        check(
            bool(self.metrics_host.strip()),
            "runtime.metrics_host",
            self.metrics_host,
            "give 127.0.0.1, or 0.0.0.0 for every address of this machine",
        )
