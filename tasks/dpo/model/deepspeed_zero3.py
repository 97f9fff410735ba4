"""A base's frozen weights shared out over the ranks by DeepSpeed's ZeRO, stage 3 (arXiv:1910.02054).

DeepSpeed cuts the weights, keeps a rank's part of each and gathers them; when, is said here, by hooks on whole decoder
layers: before a layer computes, forward or backward, and no longer than that. Its engine, its optimizer and its own
hooks stay out, so a step is what it is without: nothing is summed but adapters, once, by the trainer.

Between times a weight is a single NaN that has the weight's shape: whoever reads it too early is found out. One layer
is whole at a time, and the next one is gathered when its turn comes, where FSDP2 gathers it ahead.

DeepSpeed is an optional package: nothing else here needs it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tasks.core.errors import ConfigError

OLDEST = (0, 19, 8)  # what is used of it is no public interface, and was tried with 0.19.8
_INSTALL = "`pip install 'deepspeed>=0.19.8,<0.20'`, or set `runtime.sharding: fsdp`"
_DEPRECATED = "`torch.distributed.all_gather_into_tensor` is deprecated"  # torch's word to DeepSpeed


def share_out(layers: list[tuple[torch.nn.Module, list[torch.nn.Parameter]]], device: torch.device) -> None:
    """Cut weights of layers into the ranks' parts, in place, and have them gathered when their layer computes.

    Every rank calls it, in a process group. Weights on the CPU move to the device one by one; rank 0's are taken.

    Args:
        layers: Each with its weights that are to be cut.
        device: This rank's.

    Raises:
        ConfigError: DeepSpeed is missing, too old, or was told to work on another kind of device.
    """
    deepspeed = _ready(device)
    turn = _Turn()
    for layer, weights in layers:
        with torch.no_grad():
            deepspeed.zero.Init(module=torch.nn.ParameterList(weights), mem_efficient_linear=False)
        turn.take_in(layer, weights)


def is_shared_out(model: torch.nn.Module) -> bool:
    """Tell whether :func:`share_out` was called for layers of ``model``."""
    return any(hasattr(parameter, "ds_tensor") for parameter in model.parameters())


def refuse_unless_installed() -> None:
    """Say what to install where there is no DeepSpeed, or an old one.

    Raises:
        ConfigError: So it is.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError("`runtime.sharding` is deepspeed, and DeepSpeed is not installed", _INSTALL)
    found = importlib.metadata.version("deepspeed")
    if tuple(int(part) for part in re.findall(r"\d+", found)[:3]) < OLDEST:
        raise ConfigError(f"`runtime.sharding` is deepspeed, and DeepSpeed {found} is too old for it", _INSTALL)


def _ready(device: torch.device) -> Any:
    """Import DeepSpeed for this kind of device, and hand it the process group that there is."""
    refuse_unless_installed()
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    try:
        deepspeed = importlib.import_module("deepspeed")
    except (ImportError, OSError, RuntimeError) as error:
        told = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigError(f"`runtime.sharding` is deepspeed, and DeepSpeed does not load ({told})", _INSTALL) from None
    if (kind := deepspeed.accelerator.get_accelerator().device_name()) != device.type:
        told = f"DeepSpeed works on {kind} in this process, the model on {device.type}"
        raise ConfigError(told, f"run again with DS_ACCELERATOR={device.type} in the environment")
    # on a CPU it would compile an operation of its own, for a minute, that only sums and nothing here asks for
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    warnings.filterwarnings("ignore", message=_DEPRECATED, category=FutureWarning)
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(torch.distributed.get_backend(), auto_mpi_discovery=False, verbose=False)
    return deepspeed


class _Turn:
    """Whose turn it is in backward: one layer at a time is whole."""

    def __init__(self) -> None:
        self._current: _Layer | None = None

    def take_in(self, layer: torch.nn.Module, weights: list[Any]) -> None:
        """Let a layer's weights go, and have its hooks bring them back."""
        own = _Layer(weights, self)
        layer.register_forward_pre_hook(own.before_forward)
        layer.register_forward_hook(own.after_forward, always_call=True)
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear):
                keep_no_view(module)

    def give(self, layer: _Layer) -> None:
        """Make ``layer`` whole, for its backward begins: that of the layer before is over."""
        if self._current is layer:
            return
        if self._current is None:
            torch.autograd.Variable._execution_engine.queue_callback(self.end)
        else:
            self._current.release()
        self._current = layer
        layer.gather()

    def end(self) -> None:
        """Let go of what backward held last; nothing where it ended as it should."""
        if self._current is not None:
            self._current.release()
        self._current = None


class _Layer:
    """A decoder layer's weights, which come and go together."""

    def __init__(self, weights: list[Any], turn: _Turn) -> None:
        self._weights = weights
        self._away = [
            torch.full((1,), float("nan"), dtype=w.dtype, device=w.device).expand(w.ds_shape) for w in weights
        ]
        self._turn, self._is_whole = turn, False
        self._stand_in()

    def gather(self) -> None:
        """Fetch all ranks' parts; every rank has to."""
        if not self._is_whole:
            # tensors made in inference mode could not be trained on later
            with torch.inference_mode(False), torch.no_grad():
                self._weights[0].all_gather_coalesced(self._weights).wait()
            self._is_whole = True

    def release(self) -> None:
        """Keep this rank's part alone."""
        if self._is_whole:
            with torch.inference_mode(False), torch.no_grad():
                self._weights[0].partition(self._weights)
                self._stand_in()
            self._is_whole = False

    def before_forward(self, *_: Any) -> None:
        """Make the layer whole; in backward, which computes it a second time, it is already."""
        if not _is_backward():
            self._turn.end()
        self.gather()

    def after_forward(self, _module: torch.nn.Module, _inputs: Any, result: Any) -> None:
        """Let the weights go until the first gradient comes; in backward they are needed still."""
        if _is_backward():
            return
        self.release()
        for tensor in _tensors(result):
            if tensor.requires_grad:
                tensor.register_hook(lambda _gradient: self._turn.give(self))

    def _stand_in(self) -> None:
        for weight, away in zip(self._weights, self._away, strict=True):
            weight.data = away


def keep_no_view(module: Any) -> None:
    """Have a linear layer leave its weight itself to backward: a view of it would keep all of it till then."""
    apply: Any = _Product.apply
    module.forward = lambda x: apply(x, module.weight, module.bias)


class _Product(torch.autograd.Function):
    """y = x Wᵀ + b of frozen W and b; a gradient for x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return y [.., out] for x [.., in]."""
        ctx.save_for_backward(weight)
        return torch.nn.functional.linear(x.to(weight.dtype), weight, bias).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of x."""
        (weight,) = ctx.saved_tensors
        return (grads[0].to(weight.dtype) @ weight).to(grads[0].dtype), None, None


def _tensors(result: Any) -> Iterator[Any]:
    """Go through the tensors that a layer gives: one, or some in a tuple."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, tuple | list):
        for part in result:
            yield from _tensors(part)


def _is_backward() -> bool:
    """Tell whether autograd is going back: a forward is then one that a checkpoint does again."""
    return bool(torch._C._current_graph_task_id() != -1)
