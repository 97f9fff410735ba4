"""The params section `runtime`: facts of this machine, which may change speed and never results."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from tasks.core.section import Section, above, at_least, between, filled

Tracker = Literal["tensorboard", "wandb", "mlflow", "dvclive"]


@dataclasses.dataclass(frozen=True)
class RuntimeConfig(Section, path="runtime"):
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

    tokens_per_micro_batch: Annotated[int, at_least(1, "for example 8192, or `auto`")] | Literal["auto"] = 8192
    gradient_checkpointing: bool | Literal["auto"] = False
    compile: Literal["auto", "on", "off"] = "off"
    sharding: Literal["none", "fsdp", "deepspeed"] = "none"
    offload_activations: bool = False
    checkpoint_every_s: Annotated[float, above(0)] = 120.0
    log_every_steps: Annotated[int, at_least(1)] = 10
    trackers: tuple[Tracker, ...] = ()
    metrics_port: Annotated[int, between(0, 65535, note="for example 9464, or 0 for none")] = 0
    metrics_host: Annotated[str, filled("write 127.0.0.1, or 0.0.0.0 for every network")] = "127.0.0.1"
    row_store: str = "runs/rows"
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        is_once = len(set(self.trackers)) == len(self.trackers)
        self.require(is_once, "trackers", "name each tracker once")
