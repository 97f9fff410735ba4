"""The accelerator that a stage works on, and sums over its ranks."""

from __future__ import annotations

from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

from tasks.core.runtime import RuntimeConfig

T = TypeVar("T")


def accelerator(runtime: RuntimeConfig) -> Accelerator:
    """Return accelerate's view of this process: its device and its ranks.

    Without mixed precision: models are loaded in the type that they compute in, so there is nothing to cast.
    """
    return Accelerator(cpu=not (runtime.device == "auto" and torch.cuda.is_available()))


def sum_over_ranks(device: Accelerator, tensor: Tensor) -> Tensor:
    """Return the element-wise sum of ``tensor`` over all ranks, the same on each."""
    if device.num_processes == 1:
        return tensor
    summed: Tensor = device.reduce(tensor, reduction="sum")
    return summed


def on_any_rank(device: Accelerator, flag: bool) -> bool:
    """Tell on every rank whether ``flag`` is set on any."""
    return bool(sum_over_ranks(device, torch.tensor([float(flag)], device=device.device)) > 0)


def on_all_ranks(flag: bool, device: torch.device) -> bool:
    """Tell on every rank whether ``flag`` is set on all; for those who know no accelerator.

    Args:
        flag: This rank's.
        device: This rank's too.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flag
    flags = torch.tensor([float(flag)], device=device)
    torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MIN)
    return bool(flags > 0)


def from_main(device: Accelerator, item: T) -> T:
    """Return rank 0's ``item`` on every rank; the others' own is ignored."""
    if device.num_processes == 1:
        return item
    items = [item]
    torch.distributed.broadcast_object_list(items, src=0)
    return items[0]


def all_done(device: Accelerator) -> None:
    """Wait until every rank is here, so that none leaves while another still writes."""
    device.wait_for_everyone()
