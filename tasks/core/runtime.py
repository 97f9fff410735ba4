"""The params section `runtime`: facts of this machine, which may change speed and never results."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from tasks.core.section import Rule, Section, above, at_least

Tracker = Literal["tensorboard", "wandb", "mlflow", "dvclive"]

_ADDRESS_ADVICE = 'write HOST:PORT, for example 127.0.0.1:9464, or "" for none'


def _is_address(text: str) -> bool:
    port = re.fullmatch(r"\S+:(\d{1,5})", text)
    return not text or (port is not None and 0 < int(port[1]) < 65536)


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
        metrics_address: `HOST:PORT` at which training serves its numbers to Prometheus; none when empty.
        row_store: Folder or `s3://BUCKET/PREFIX` of what was computed for single rows; off when empty.
        device: `auto` takes CUDA where there is some; `cpu` never does.
    """

    REMOVED: ClassVar[Mapping[str, str]] = {
        "metrics_port": "write `metrics_address: 127.0.0.1:PORT`, or delete it where it was 0",
        "metrics_host": "write it before the port: `metrics_address: HOST:PORT`",
    }

    tokens_per_micro_batch: Annotated[int, at_least(1, "for example 8192, or `auto`")] | Literal["auto"] = 8192
    gradient_checkpointing: bool | Literal["auto"] = False
    compile: Literal["auto", "on", "off"] = "off"
    sharding: Literal["none", "fsdp", "deepspeed"] = "none"
    offload_activations: bool = False
    checkpoint_every_s: Annotated[float, above(0)] = 120.0
    log_every_steps: Annotated[int, at_least(1)] = 10
    trackers: tuple[Tracker, ...] = ()
    metrics_address: Annotated[str, Rule(_is_address, _ADDRESS_ADVICE)] = ""
    row_store: str = "runs/rows"
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        is_once = len(set(self.trackers)) == len(self.trackers)
        self.require(is_once, "trackers", "name each tracker once")

    @property
    def metrics_host(self) -> str:
        """The host of `metrics_address`, without an IPv6 address's brackets; empty where there is none."""
        return self.metrics_address.rpartition(":")[0].strip("[]")

    @property
    def metrics_port(self) -> int:
        """The port of `metrics_address`; 0 where there is none."""
        return int(self.metrics_address.rpartition(":")[2] or 0)
