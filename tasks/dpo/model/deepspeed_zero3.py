"""A base's frozen weights sharded over the ranks by DeepSpeed's ZeRO, stage 3 (arXiv:1910.02054).

DeepSpeed shards the weights and runs the all-gathers. Hooks on whole decoder layers decide here when: a layer is whole
while it computes, forward or backward, and no longer. DeepSpeed's engine, optimizer and hooks are not used, so a step
is the same as without it: only adapter gradients are summed over ranks, once a step, by the trainer.

While a weight is sharded, a single NaN expanded to the weight's shape stands in for it, so that an early read gives
NaN. One layer is whole at a time, and the next is gathered when it computes; FSDP2 gathers it ahead of time.

DeepSpeed is an optional package: nothing else here needs it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tasks.core.errors import ConfigError

OLDEST = (0, 19, 8)  # the functions used here are not public, and were tested with 0.19.8
_INSTALL = "`pip install 'deepspeed>=0.19.8,<0.20'`, or set `runtime.sharding: fsdp`"
_DEPRECATED = "`torch.distributed.all_gather_into_tensor` is deprecated"  # torch's warning about DeepSpeed's call


def shard(layers: list[tuple[torch.nn.Module, list[torch.nn.Parameter]]], device: torch.device) -> None:
    """Shard the weights of layers in place, and register the hooks that gather them while their layer computes.

    Every rank must call it, in a process group. Weights on the CPU move to the device one by one; rank 0's values
    are broadcast.

    Args:
        layers: Each layer with the weights to shard.
        device: This rank's device.

    Raises:
        ConfigError: DeepSpeed is missing, too old, or set up for another kind of device.
    """
    deepspeed = _ready(device)
    backward = _Backward()
    for layer, weights in layers:
        with torch.no_grad():
            deepspeed.zero.Init(module=torch.nn.ParameterList(weights), mem_efficient_linear=False)
        hooks = _Layer(weights, backward)
        layer.register_forward_pre_hook(hooks.before_forward)
        layer.register_forward_hook(hooks.after_forward, always_call=True)
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear):
                keep_no_view(module)


def is_sharded(model: torch.nn.Module) -> bool:
    """Tell whether :func:`shard` was called for layers of ``model``."""
    return any(hasattr(parameter, "ds_tensor") for parameter in model.parameters())


def refuse_unless_installed() -> None:
    """Refuse to go on without DeepSpeed, or with an old one.

    Raises:
        ConfigError: DeepSpeed is missing or too old; says what to install.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError("`runtime.sharding` is deepspeed, and DeepSpeed is not installed", _INSTALL)
    version = importlib.metadata.version("deepspeed")
    if tuple(int(part) for part in re.findall(r"\d+", version)[:3]) < OLDEST:
        raise ConfigError(f"`runtime.sharding` is deepspeed, and DeepSpeed {version} is too old for it", _INSTALL)


def _ready(device: torch.device) -> Any:
    """Import DeepSpeed for this kind of device, and give it the existing process group."""
    refuse_unless_installed()
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    try:
        deepspeed = importlib.import_module("deepspeed")
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        what = f"`runtime.sharding` is deepspeed, and DeepSpeed does not load ({reason})"
        raise ConfigError(what, _INSTALL) from None
    if (kind := deepspeed.accelerator.get_accelerator().device_name()) != device.type:
        what = f"DeepSpeed works on {kind} in this process, the model on {device.type}"
        raise ConfigError(what, f"run again with DS_ACCELERATOR={device.type} in the environment")

    # on a CPU DeepSpeed would spend a minute on compiling an all-reduce, which is not used here
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    warnings.filterwarnings("ignore", message=_DEPRECATED, category=FutureWarning)
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(torch.distributed.get_backend(), auto_mpi_discovery=False, verbose=False)
    return deepspeed


class _Backward:
    """Gathers the layer whose backward runs, and shards the one before again: one layer is whole at a time."""

    def __init__(self) -> None:
        self._current: _Layer | None = None

    def begin(self, layer: _Layer) -> None:
        """Gather ``layer``, whose backward begins; the backward of the layer that came before it is over."""
        if self._current is layer:
            return
        if self._current is None:
            torch.autograd.Variable._execution_engine.queue_callback(self.end)
        else:
            self._current.release()
        self._current = layer
        layer.gather()

    def end(self) -> None:
        """Release the layer that backward gathered last; there is none where backward ended without an error."""
        if self._current is not None:
            self._current.release()
        self._current = None


class _Layer:
    """A decoder layer's weights, which are gathered and released together."""

    def __init__(self, weights: list[Any], backward: _Backward) -> None:
        self._weights = weights
        self._placeholders = [
            torch.full((1,), float("nan"), dtype=w.dtype, device=w.device).expand(w.ds_shape) for w in weights
        ]
        self._backward, self._is_whole = backward, False
        self._use_placeholders()

    def gather(self) -> None:
        """All-gather the weights; collective, so every rank must call it."""
        if not self._is_whole:
            # tensors made in inference mode could not take part in training later
            with torch.inference_mode(False), torch.no_grad():
                self._weights[0].all_gather_coalesced(self._weights).wait()
            self._is_whole = True

    def release(self) -> None:
        """Keep this rank's shards only."""
        if self._is_whole:
            with torch.inference_mode(False), torch.no_grad():
                self._weights[0].partition(self._weights)
                self._use_placeholders()
            self._is_whole = False

    def before_forward(self, *_: Any) -> None:
        """Gather the layer; in backward, where a checkpoint computes it again, it is whole already."""
        if not _is_backward():
            self._backward.end()
        self.gather()

    def after_forward(self, _module: torch.nn.Module, _inputs: Any, result: Any) -> None:
        """Release the weights until the first gradient arrives; in backward they are still needed."""
        if _is_backward():
            return
        self.release()
        for tensor in tree_leaves(result):
            if getattr(tensor, "requires_grad", False):
                tensor.register_hook(lambda _gradient: self._backward.begin(self))

    def _use_placeholders(self) -> None:
        for weight, placeholder in zip(self._weights, self._placeholders, strict=True):
            weight.data = placeholder


def keep_no_view(module: Any) -> None:
    """Have a linear layer save its weight for backward, and no view of it, which would keep the whole weight alive."""
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


def _is_backward() -> bool:
    """Tell whether backward is running; a forward inside it is one that a checkpoint computes again."""
    return bool(torch._C._current_graph_task_id() != -1)
