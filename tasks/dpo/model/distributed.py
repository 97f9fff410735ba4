"""The accelerator that a stage works on, and sums over its ranks."""

from __future__ import annotations

from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

from tasks.core.runtime import RuntimeConfig

T = TypeVar("T")


def open_accelerator(runtime: RuntimeConfig) -> Accelerator:
    """Return accelerate's view of this process: its device and its ranks.

    Without mixed precision: models are loaded in the type that they compute in, so there is nothing to cast.
    """
    return Accelerator(cpu=not (runtime.device == "auto" and torch.cuda.is_available()))


def sum_over_ranks(accelerator: Accelerator, tensor: Tensor) -> Tensor:
    """Return the element-wise sum of ``tensor`` over all ranks, the same on each."""
    if accelerator.num_processes == 1:
        return tensor
    summed: Tensor = accelerator.reduce(tensor, reduction="sum")
    return summed


def on_any_rank(accelerator: Accelerator, flag: bool) -> bool:
    """Tell on every rank whether ``flag`` is set on any."""
    return bool(sum_over_ranks(accelerator, torch.tensor([float(flag)], device=accelerator.device)) > 0)


def on_all_ranks(flag: bool, device: torch.device) -> bool:
    """Tell on every rank whether ``flag`` is set on all; for callers without an accelerator.

    Args:
        flag: This rank's flag.
        device: This rank's device.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flag
    flags = torch.tensor([float(flag)], device=device)
    torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MIN)
    return bool(flags > 0)


def turns_behind(turns: int) -> int:
    """Return by how many ``turns`` this rank has fewer than the rank that has most; all ranks call it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0
    counts: list[int] = [0] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(counts, turns)
    return max(counts) - turns


def from_main(accelerator: Accelerator, item: T) -> T:
    """Return rank 0's ``item`` on every rank; what the other ranks give is ignored."""
    if accelerator.num_processes == 1:
        return item
    items = [item]
    torch.distributed.broadcast_object_list(items, src=0)
    return items[0]


def all_done(accelerator: Accelerator) -> None:
    """Wait until every rank is here, so that none leaves while another still writes."""
    accelerator.wait_for_everyone()
