"""The memory that training a LoRA adapter needs, by a formula, and the memory that this machine has.

For each packed token and layer autograd keeps these counts of numbers (H hidden size, A heads · head size, K key
heads · head size, I width of the feed-forward part; a lean LoRA linear keeps its input, `tasks/dpo/scoring/lora.py`):

    nothing recomputed   2 H of float32: inputs of the two norms, which compute in float32
                         2 H             the norms' results, inputs of the first linears
                         3 A             queries, attention's result by segment, the same in one tensor
                         2 K + 2 K       keys and values; at most as many again where segments repeat a prompt
                         (2 + 2 g) I     up projections, the activation function's result, the product (g = 1: gated)
      on a CPU           2 A + 2 K of attention (`attention_cpu.py`), 2 I of fused gated parts (`fusion_cpu.py`)
    selective            2 A + 2 K + (1 + g) I + 2 H: results of matrix products and attention; backward recomputes
                         norms, activation functions and element-wise products
    full                 H: the layer's input; backward recomputes all else

Backward recomputes one layer at a time and holds about one layer's share more. Outside the layers there are the
embedding's result, the last norm and, for the completion tokens, the head's gradient. Attention that keeps its
scores (soft caps off CUDA) is not counted: it grows with the square of a sequence's length.
"""

from __future__ import annotations

import dataclasses
import enum
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tasks.dpo.capacity.flops import ModelShape
from tasks.dpo.scoring.fusion_cpu import keeps_gates

_FLOAT32 = 4
_CGROUPS = Path("/sys/fs/cgroup")


class Recompute(enum.StrEnum):
    """What backward recomputes to save memory, the least first."""

    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"


@dataclasses.dataclass(frozen=True)
class Fusion:
    """Which parts of a layer are fused into one operation, which keeps less for backward.

    Attributes:
        attention: All segments of a row together.
        gates: Gated feed-forward parts with their down projection.
    """

    attention: bool = False
    gates: bool = False

    @classmethod
    def of(cls, model: Any) -> Fusion:
        """Return the fusions of a model that a scorer has prepared."""
        return cls(next(model.parameters()).device.type == "cpu", keeps_gates(model))


@dataclasses.dataclass(frozen=True)
class MemoryModel:
    """The memory that a training step needs on one device.

    Attributes:
        held: Bytes of weights and adapters, which are allocated already.
        fixed: Bytes to be allocated for any batch: gradients, AdamW's moments, one tile of the head.
        per_token: Bytes of activations for each packed token, by what backward recomputes.
    """

    held: int
    fixed: int
    per_token: Mapping[Recompute, int]

    @classmethod
    def of(
        cls,
        model: Any,
        shape: ModelShape,
        compute: torch.dtype,
        tile: int,
        trains: bool = True,
        whole_logits: bool = False,
    ) -> MemoryModel:
        """Estimate by the formula above.

        Args:
            model: The policy; its parameters that require gradients are trained.
            shape: Its shape.
            compute: The type of activations.
            tile: Logits that the head holds at once.
            trains: False for scoring alone, which keeps no activations and no gradients.
            whole_logits: The head computes all logits of every token at once.
        """
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad) if trains else 0
        logit = 2 * _FLOAT32 + (compute.itemsize if compute != torch.float32 else 0)
        # gradients, both moments, and a copy of the gradients while ranks sum them
        fixed = trained * 4 * _FLOAT32 + (0 if whole_logits else tile * logit)

        fusion = Fusion.of(model)
        logits = shape.vocabulary * logit if whole_logits else 0
        working = layer_bytes(shape, compute, Recompute.NONE, fusion) + logits
        kept = {level: saved_bytes(shape, compute, level, fusion) if trains else 0 for level in Recompute}
        return cls(bytes_of(model), fixed, {level: kept[level] + working for level in Recompute})

    def need(self, tokens: int, recompute: Recompute) -> int:
        """Return the bytes that a micro-batch of ``tokens`` packed tokens needs beyond those held already."""
        return self.fixed + tokens * self.per_token[recompute]

    def fitting(self, free: float, recompute: Recompute) -> int:
        """Return how many packed tokens fit into ``free`` bytes, 0 if none does."""
        return max(0, int((free - self.fixed) // self.per_token[recompute]))

    def measured(self, per_token: int) -> MemoryModel:
        """Return the model with a measured number for `none`, and the other levels scaled by the same ratio."""
        ratio = per_token / self.per_token[Recompute.NONE]
        scaled = {level: max(1, round(ratio * size)) for level, size in self.per_token.items()}
        return dataclasses.replace(self, per_token=scaled)


def layer_bytes(shape: ModelShape, compute: torch.dtype, recompute: Recompute, fusion: Fusion = Fusion()) -> int:
    """Return the bytes that one layer keeps for backward for each packed token, by the formula above."""
    queries, keys = shape.heads * shape.head_dim, shape.key_heads * shape.head_dim
    up_projections = 2 if shape.is_gated else 1
    if recompute is Recompute.FULL:
        return shape.hidden * compute.itemsize
    if recompute is Recompute.SELECTIVE:
        kept = 2 * queries + 2 * keys + up_projections * shape.intermediate + 2 * shape.hidden
        return kept * compute.itemsize
    attention = 2 * queries + 2 * keys if fusion.attention else 3 * queries + 4 * keys
    widths = 2 if fusion.gates else 2 * up_projections
    kept = 2 * shape.hidden + attention + widths * shape.intermediate
    return 2 * shape.hidden * _FLOAT32 + kept * compute.itemsize


def saved_bytes(shape: ModelShape, compute: torch.dtype, recompute: Recompute, fusion: Fusion = Fusion()) -> int:
    """Return the bytes that a whole forward keeps for backward for each packed token."""
    outside = shape.hidden * (3 * compute.itemsize + 2 * _FLOAT32)
    return shape.layers * layer_bytes(shape, compute, recompute, fusion) + outside


def bytes_of(model: Any) -> int:
    """Return the bytes of a model's weights and buffers on this rank; tied ones count once."""
    shards = (  # FSDP2 and DeepSpeed have sharded some tensors
        tensor.to_local() if hasattr(tensor, "to_local") else getattr(tensor, "ds_tensor", tensor)
        for tensor in (*model.parameters(), *model.buffers())
    )
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in shards}.values())


def free_bytes(device: torch.device) -> int:
    """Return the bytes that this process may still allocate on ``device``.

    On CUDA these are what the driver has free and what torch has reserved but not used. On a CPU they are what the
    system can give without swapping, or what the container's limit leaves if that is less, divided by the ranks of
    this machine.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    ranks_here = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return min(_available(), container_leaves(_CGROUPS, Path("/proc/self/cgroup"))) // ranks_here


def in_words(size: float) -> str:
    """Return a number of bytes as text: `340 MB`, `1.6 GB`, `42 GB`."""
    if size < 1e9:
        return f"{size / 1e6:.0f} MB"
    return f"{size / 1e9:.1f} GB" if size < 1e10 else f"{size / 1e9:.0f} GB"


def container_leaves(root: Path, membership: Path) -> int:
    """Return the bytes that control groups still allow this process; `sys.maxsize` where none limits it.

    Args:
        root: Where control groups are mounted, version 2 or version 1 with its `memory` folder.
        membership: The file that names this process's groups, lines of `number:controllers:/path`.
    """
    least = sys.maxsize
    for line in _text(membership).splitlines():
        # version 2 has no controllers in its line
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folder, names = root, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            folder, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue

        process_group = folder / path.lstrip("/")
        for group in (process_group, *process_group.parents):  # a group's limit holds for all groups below it
            if group.is_relative_to(folder) and (limit := _text(group / names[0])).isdecimal():
                least = min(least, int(limit) - int(_text(group / names[1]) or 0))
    return max(0, least)


def _available() -> int:
    """Return what the system can give without swapping: MemAvailable on Linux, half of all memory elsewhere."""
    for line in _text(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _text(path: Path) -> str:
    """Return a small file's text, stripped; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
