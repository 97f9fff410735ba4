"""Activation offload: keep what backward needs in the host's memory, which leaves the GPU room for longer texts.

It is meant for the checkpointing level `full`, which keeps only each layer's input: so much is copied to the host
and back while layers compute. Weights stay where they are. Copies use pinned memory and the stream that computes, so
they are in order and the host waits for none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

LEAST_BYTES = 1 << 16  # smaller tensors are not worth a copy
_Packed = Tensor | tuple[torch.device, Tensor]


@contextlib.contextmanager
def offloading(is_on: bool, device: torch.device) -> Iterator[None]:
    """Keep on the host what the forwards in this block save for their backwards, which may run outside of it.

    Gradients are the same to the last bit. On a CPU it only copies, which is of use in tests alone.

    Args:
        is_on: Whether to offload; False does nothing.
        device: The device that computes.
    """
    if not is_on:
        yield
        return

    def pack(tensor: Tensor) -> _Packed:
        if not _is_worth_it(tensor, device):
            return tensor
        on_host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=device.type == "cuda")
        return tensor.device, on_host.copy_(tensor, non_blocking=True)

    def unpack(packed: _Packed) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        return packed[1].to(packed[0], non_blocking=True)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def _is_worth_it(tensor: Tensor, device: torch.device) -> bool:
    """Tell whether ``tensor`` is an activation of some size: no weight, no view of a weight, no ids."""
    is_weight = any(isinstance(each, torch.nn.Parameter) for each in (tensor, tensor._base))
    size = tensor.numel() * tensor.element_size()
    return tensor.device.type == device.type and tensor.is_floating_point() and size >= LEAST_BYTES and not is_weight
