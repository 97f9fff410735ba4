"""Decoder layers compiled by torch.compile: one graph for all layers of a kind, whatever the batch's size.

Each layer is compiled, not the model, so a deep model compiles as fast as a shallow one. Attention stays out of the
graphs: its segments change with every batch, and its kernels are fused already. With activation checkpointing the
checkpoint is around a layer and the modules inside are compiled; backward then recomputes all of a module, products
too.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch
from transformers import AttentionInterface

from tasks.core.errors import ConfigError
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.model.anatomy import decoder_layers
from tasks.dpo.scoring import attention

_COMPILERS = ("g++", "clang++")


def is_wanted(runtime: RuntimeConfig, device: torch.device) -> bool:
    """Tell whether `runtime.compile` asks for it: `auto` does on CUDA."""
    return runtime.compile == "on" or (runtime.compile == "auto" and device.type == "cuda")


def compile_layers(model: torch.nn.Module, backend: str = "inductor") -> None:
    """Have every decoder layer compiled when it is next called; results change in the last digits only.

    Call it when the modes are set: it depends on what backward recomputes.

    Args:
        model: A causal language model, bare or with adapters.
        backend: torch.compile's; `aot_eager` traces and fuses nothing.

    Raises:
        ConfigError: The model is on a CPU, and there is no C++ compiler.
    """
    if backend == "inductor" and next(model.parameters()).device.type == "cpu":
        compilers = [os.environ["CXX"]] if "CXX" in os.environ else _COMPILERS
        if not any(shutil.which(name) for name in compilers):
            raise ConfigError(
                f"`runtime.compile` needs a C++ compiler on a CPU, and there is none ({', '.join(compilers)})",
                "install one, or set `runtime.compile: off`",
            )

    keep_out: Any = torch.compiler.disable
    AttentionInterface.register(attention.NAME, keep_out(attention.shared_prefix_attention))

    for layer in decoder_layers(model):
        is_checkpointed = getattr(layer, "gradient_checkpointing", False) and layer.training
        for module in layer.children() if is_checkpointed else (layer,):
            if any(True for _ in module.parameters()):
                module.compile(dynamic=True, backend=backend)
