"""A base that does not fit on one GPU: its frozen weights sharded over the ranks, by FSDP2 or by DeepSpeed's ZeRO.

Only the base weights of the decoder layers are sharded. Each rank stores its shard of every layer, and an all-gather
makes a layer whole for as long as it computes. Embeddings, the last norm and the head stay whole on every rank, for
the head's weight is used directly; so do the adapters, whose gradients the trainer sums over ranks once a step. So
every number is the one of a single GPU, and only adapter gradients are reduced.

All-gather is collective, so ranks with fewer micro-batches run dummy ones: their smallest row again, left out of every
sum. For the same reason no rank can repeat a micro-batch by itself when it runs out of memory.
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
    """Tell whether the base will be sharded; it then has to be loaded on the CPU.

    Raises:
        ConfigError: DeepSpeed would shard it, and is missing or too old.
    """
    if runtime.sharding == "none" or accelerator.num_processes == 1:
        return False
    if runtime.sharding == "deepspeed":
        deepspeed_zero3.refuse_unless_installed()
    return True


def place(model: Any, accelerator: Accelerator, runtime: RuntimeConfig) -> Any:
    """Move ``model`` to this rank's device, whole or as this rank's shards; return it.

    Raises:
        ConfigError: It would be sharded and is quantised, or DeepSpeed would shard it and is missing or too old.
    """
    if runtime.sharding != "none" and not is_sharded(model):
        if accelerator.num_processes > 1:
            shard_frozen(model, accelerator, runtime.sharding)
        else:
            _log.info("`runtime.sharding` has no effect: this is the only rank")
    return model.to(accelerator.device)


def is_sharded(model: torch.nn.Module) -> bool:
    """Tell whether :func:`shard_frozen` was called for ``model``."""
    return any(isinstance(module, FSDPModule) for module in model.modules()) or deepspeed_zero3.is_sharded(model)


def shard_frozen(model: Any, accelerator: Accelerator, by: Literal["fsdp", "deepspeed"] = "fsdp") -> None:
    """Shard the decoder layers' frozen weights over all ranks, in place; every rank must call it.

    A model on the CPU moves to the device layer by layer, so a device never holds more than one whole layer. On the
    CPU its weights are memory-mapped from the files, one copy for all ranks of a machine, where the files have the
    compute type.

    Args:
        model: A causal language model, bare or with adapters, the same on every rank.
        accelerator: This rank's device, and the number of ranks.
        by: The library that shards and gathers.

    Raises:
        ConfigError: The model is quantised, so its weights cannot be sharded; or DeepSpeed is missing or too old.
    """
    if getattr(model, "is_quantized", False):
        raise quantised_and_sharded()

    inner = bare_model(model)
    body = body_of(inner) or inner
    layers = decoder_layers(body)
    # each layer's base weights; an adapter's parameters may be frozen too, and are left out
    frozen = [
        [p for name, p in layer.named_parameters() if not p.requires_grad and "lora_" not in name] for layer in layers
    ]

    if by == "deepspeed":
        deepspeed_zero3.shard(list(zip(layers, frozen, strict=True)), accelerator.device)
    else:
        whole = set(model.parameters()) - {parameter for weights in frozen for parameter in weights}
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        shards = [fully_shard(layer, mesh=mesh, ignored_params=whole) for layer in layers]
        # the body has nothing left to shard: it prefetches the next layer's all-gather
        fully_shard(body, mesh=mesh, ignored_params=whole)

        for shard in shards:
            # the first all-gather allocates the tensors that later ones fill; of inference mode, they could not train
            shard.unshard()
            shard.reshard()
    _log.info("the weights of %d layers are sharded over %d ranks", len(layers), accelerator.num_processes)
