"""How many floating-point operations a pair needs, and how many a second this machine can do.

The count is of what the model needs, not of what a program computes: every token of a prompt, a chosen and a
rejected completion once, nothing for padding, for recomputed activations or for the adapters' small products.
N_b is the number of weights that each token of the body is multiplied with, V and H are the vocabulary and the
hidden size, and P, C, R the tokens of prompt, chosen and rejected:

    body       4 N_b (P + C + R)    2 N_b a token forward, 2 N_b backward: frozen weights need no gradients
    head       4 V H (C + R)        likewise, on completion tokens only
    attention  12 A L k             a forward of 4 A a visible pair of tokens and layer, twice that backward; A is
                                    heads · head size, L layers, k = (P+C)(P+C+1)/2 + R P + R(R+1)/2
"""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tasks.dpo.model.anatomy import bare_model

Lengths = npt.NDArray[np.integer[Any]]
SECONDS_TO_MEASURE = 0.4  # of matmul_rate, all sizes together
_SIZES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}


@dataclasses.dataclass(frozen=True)
class ModelShape:
    """What a causal language model's cost in time and memory depends on.

    Attributes:
        body_weights: N_b, weights that each token of the body is multiplied with; of experts the active ones alone.
        vocabulary: V, outputs of the head.
        hidden: H.
        layers: L.
        heads: Attention heads of a layer; 1 for families without attention.
        key_heads: Heads of its keys and values, fewer with grouped queries.
        head_dim: Size of one head.
        intermediate: Width inside the feed-forward part.
        is_gated: Whether that part has a gate beside its up projection, as in Llama.
    """

    body_weights: int
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    key_heads: int
    head_dim: int
    intermediate: int
    is_gated: bool

    @classmethod
    def of(cls, model: Any) -> ModelShape:
        """Return the shape of a causal language model, bare or with PEFT's adapters, quantised or not."""
        inner = bare_model(model)
        config = inner.config.get_text_config()
        hidden, heads = int(config.hidden_size), _first(config, ("num_attention_heads",), 1)
        intermediate = _first(config, ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"), 4 * hidden)

        # with a gate there are two up projections a layer, or one of twice the width
        linears = _linears(inner)
        up_projections = sum(
            outputs
            for name, inputs, outputs in linears
            if inputs == hidden and outputs in (intermediate, 2 * intermediate) and "att" not in name
        )
        linear_weights = sum(inputs * outputs for _, inputs, outputs in linears)
        layers, head = int(config.num_hidden_layers), inner.get_output_embeddings()
        return cls(
            body_weights=linear_weights + _active_expert_weights(inner, config),
            vocabulary=int(getattr(head, "out_features", 0) or head.weight.shape[0]),
            hidden=hidden,
            layers=layers,
            heads=heads,
            key_heads=_first(config, ("num_key_value_heads",), heads),
            head_dim=_first(config, ("head_dim",), hidden // heads),
            intermediate=intermediate,
            is_gated=up_projections >= 2 * layers * intermediate,
        )


def training_flops(shape: ModelShape, lengths: Lengths) -> float:
    """Return the operations of one training pass of LoRA over pairs, by the formula above, without windows.

    Args:
        shape: The model.
        lengths: P, C and R of each pair, shape [n, 3].
    """
    tokens, completions = int(lengths.sum(dtype=np.int64)), int(lengths[:, 1:].sum(dtype=np.int64))
    linear = 4.0 * shape.body_weights * tokens + 4.0 * shape.vocabulary * shape.hidden * completions

    p, c, r = lengths.T.astype(np.float64)
    visible = (p + c) * (p + c + 1) / 2 + r * p + r * (r + 1) / 2
    return linear + float(12.0 * shape.heads * shape.head_dim * shape.layers * visible.sum())


def matmul_rate(device: torch.device | str, dtype: torch.dtype) -> float:
    """Return the floating-point operations a second of this machine's matrix products, measured once a process.

    It is the best of a few square sizes, each by its shortest run, for other programs make runs longer, never
    shorter. Measuring takes about half a second; on a CPU it uses the threads that this process uses now.
    """
    device = torch.device(device)
    return _measured_rate(str(device), dtype, torch.get_num_threads() if device.type == "cpu" else 0)


@functools.cache
def _measured_rate(device: str, dtype: torch.dtype, threads: int) -> float:  # noqa: ARG001 a key of the cache
    sizes = _SIZES["cuda" if device.startswith("cuda") else "cpu"]
    rates = []
    for size in sizes:
        shortest = _shortest_run(torch.ones(size, size, device=device, dtype=dtype), SECONDS_TO_MEASURE / len(sizes))
        rates.append(2.0 * size**3 / shortest)
        if 3 * 8 * shortest > SECONDS_TO_MEASURE / len(sizes):  # twice the size takes eight times as long
            break
    return max(rates)


def _shortest_run(square: torch.Tensor, limit: float) -> float:
    """Return the seconds of the shortest of two or more runs of ``square @ square``, as many as fit into ``limit``."""
    out = torch.empty_like(square)
    seconds: list[float] = []
    until = time.monotonic() + limit
    while len(seconds) < 3 or (time.monotonic() < until and len(seconds) < 50):
        began = time.perf_counter()
        torch.mm(square, square, out=out)
        if square.is_cuda:
            torch.cuda.synchronize(square.device)
        seconds.append(max(time.perf_counter() - began, 1e-9))
    return min(seconds[1:])  # the first one warms up


def _linears(inner: Any) -> list[tuple[str, int, int]]:
    """Return (name, inputs, outputs) of each linear layer of the body; of quantised ones the unquantised shape."""
    head = {id(module) for module in inner.get_output_embeddings().modules()}
    linears = []
    for name, module in inner.named_modules():
        if "lora_" in name or id(module) in head:
            continue
        if isinstance(module, nn.Linear):
            linears.append((name, int(module.in_features), int(module.out_features)))
        elif isinstance(module, Conv1D):
            linears.append((name, int(module.weight.shape[0]), int(module.weight.shape[1])))
    return linears


def _active_expert_weights(inner: Any, config: Any) -> int:
    """Return how many weights of stacked experts, tensors [experts, ., .], one token is multiplied with."""
    experts = _first(config, ("num_experts", "num_local_experts", "n_routed_experts"), 0)
    active = _first(config, ("num_experts_per_tok", "num_experts_per_token"), experts)
    stacked = (p for name, p in inner.named_parameters() if p.ndim == 3 and "lora_" not in name)
    return sum(p.numel() // experts * active for p in stacked if experts and p.shape[0] == experts)


def _first(config: Any, names: tuple[str, ...], otherwise: int) -> int:
    """Return the first of a config's attributes that exists and is not None."""
    return next((int(value) for name in names if (value := getattr(config, name, None)) is not None), otherwise)
