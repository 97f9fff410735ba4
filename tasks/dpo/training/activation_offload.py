"""What backward needs, kept in the host's memory meanwhile: room on the GPU for longer texts, at the bus's speed.

Meant for the level of recomputing that keeps only what enters each layer: that much goes out and comes back while
layers compute. Weights stay where they are. Copies go through pinned memory on the stream that computes, so they are
in order without anyone waiting on the host.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

LEAST_BYTES = 1 << 16  # what is smaller is not worth a copy
_Packed = Tensor | tuple[torch.device, Tensor]


@contextlib.contextmanager
def offloading(is_on: bool, device: torch.device) -> Iterator[None]:
    """Keep on the host what the forwards in this block leave for their backwards, which may run outside of it.

    Gradients are the same to the last bit. On a CPU it only copies, which is good for nothing but tests.

    Args:
        is_on: Whether to do it at all.
        device: What computes.
    """
    if not is_on:
        yield
        return

    def pack(tensor: Tensor) -> _Packed:
        if not _is_worth_it(tensor, device):
            return tensor
        kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=device.type == "cuda")
        return tensor.device, kept.copy_(tensor, non_blocking=True)

    def unpack(packed: _Packed) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        return packed[1].to(packed[0], non_blocking=True)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def _is_worth_it(tensor: Tensor, device: torch.device) -> bool:
    """Tell whether it is an activation of some size: no weight, no view of one, no ids."""
    is_weight = any(isinstance(each, torch.nn.Parameter) for each in (tensor, tensor._base))
    size = tensor.numel() * tensor.element_size()
    return tensor.device.type == device.type and tensor.is_floating_point() and size >= LEAST_BYTES and not is_weight
