"""A base that does not fit on one GPU: its frozen weights shared out over the ranks, by FSDP2 or by DeepSpeed's ZeRO.

Only the decoder layers' own weights are: a rank keeps its part of each and gathers a layer's for as long as the
layer computes. Embeddings, the last norm and the head stay whole on every rank, for the head is used by its
weight, and so do the adapters, whose gradients the trainer sums once a step as ever. So every number is what it
would be on one GPU, and nothing is summed but adapters.

To gather takes all ranks. So all do the same number of passes: a rank with fewer micro-batches than another goes
through its smallest row again, and lets nothing of it count. And no rank can do a part again by itself when its
memory runs out.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from tasks.core.runtime import RuntimeConfig
from tasks.dpo.model import deepspeed_zero3
from tasks.dpo.model.anatomy import bare_model, body_of, decoder_layers
from tasks.dpo.model.quantization import quantised_and_sharded
from tasks.telemetry import log

_log = log.get_logger(__name__)


def is_wanted(runtime: RuntimeConfig, accelerator: Accelerator) -> bool:
    """Tell whether the base is to be shared out; it then has to be loaded on the CPU.

    Raises:
        ConfigError: DeepSpeed is to do it, and is missing or too old.
    """
    if runtime.sharding == "none" or accelerator.num_processes == 1:
        return False
    if runtime.sharding == "deepspeed":
        deepspeed_zero3.refuse_unless_installed()
    return True


def place(model: Any, accelerator: Accelerator, runtime: RuntimeConfig) -> Any:
    """Put ``model`` on this rank's device, whole or its part of it; return it.

    Raises:
        ConfigError: It is to be sharded and is quantised, or DeepSpeed is to do it and is not there.
    """
    if runtime.sharding != "none" and not is_sharded(model):
        if accelerator.num_processes > 1:
            shard_frozen(model, accelerator, runtime.sharding)
        else:
            _log.info("`runtime.sharding` has nothing to share out: this is the only rank")
    return model.to(accelerator.device)


def is_sharded(model: torch.nn.Module) -> bool:
    """Tell whether :func:`shard_frozen` was called for ``model``."""
    return any(isinstance(module, FSDPModule) for module in model.modules()) or deepspeed_zero3.is_shared_out(model)


def shard_frozen(model: Any, accelerator: Accelerator, by: Literal["fsdp", "deepspeed"] = "fsdp") -> None:
    """Share the decoder layers' frozen weights out over all ranks, in place; every rank calls it.

    A model on the CPU moves to the device layer by layer, so that a device never holds more than one layer whole.
    The weights there are views of the files, one copy in memory for all ranks of a machine, as long as the files
    have the type that is computed in.

    Args:
        model: A causal language model, bare or with adapters, the same on every rank.
        accelerator: This rank's device and the others.
        by: Who cuts and gathers.

    Raises:
        ConfigError: The model is quantised: its weights cannot be cut. Or DeepSpeed is to do it and is not there.
    """
    if getattr(model, "is_quantized", False):
        raise quantised_and_sharded()
    inner = bare_model(model)
    body = body_of(inner) or inner
    layers = decoder_layers(body)
    if by == "deepspeed":
        deepspeed_zero3.share_out([(layer, _frozen(layer)) for layer in layers], accelerator.device)
    else:
        _by_fsdp(model, body, layers, accelerator)
    _log.info("the weights of %d layers are shared out over %d ranks", len(layers), accelerator.num_processes)


def _by_fsdp(model: Any, body: Any, layers: list[torch.nn.Module], accelerator: Accelerator) -> None:
    ours = {parameter for layer in layers for parameter in _frozen(layer)}
    kept = {parameter for parameter in model.parameters() if parameter not in ours}
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    shards = [fully_shard(layer, mesh=mesh, ignored_params=kept) for layer in layers]
    fully_shard(body, mesh=mesh, ignored_params=kept)  # owns nothing, but has the next layer gathered in time
    for shard in shards:
        # the first gathering makes the tensors that all others fill: those of inference mode could not be trained on
        shard.unshard()
        shard.reshard()


def _frozen(layer: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return the base's own parameters of a layer; an adapter's may be frozen too."""
    return [p for name, p in layer.named_parameters() if not p.requires_grad and "lora_" not in name]
