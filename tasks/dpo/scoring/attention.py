"""Attention over a shared row: each segment's queries see its keys and no others.

Registered with transformers as `shared_prefix`. The model's forward passes the segments and the kernel on as the
keyword arguments `segments` and `kernel`. Five kernels compute the same:

- `varlen`: torch's variable-length flash attention, one call a layer (CUDA, half precision);
- `flash`: the same from the package flash-attn, where it is installed; it also supports soft caps;
- `flex`: FlexAttention, one call a layer (CUDA);
- `row`: torch's CPU kernel, a segment at a time, as one operation (CPU, :mod:`tasks.dpo.scoring.attention_cpu`);
- `pieces`: one scaled_dot_product_attention a segment, on any device.

Shapes: query [1, heads, T, d], key and value [1, key heads, T, d]; the result is [1, T, heads, d].
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from tasks.dpo.scoring import attention_cpu
from tasks.dpo.scoring.layout import Segments

NAME = "shared_prefix"
Kernel = Callable[[Tensor, Tensor, Tensor, Segments, float, int, float], Tensor]


def shared_prefix_attention(
    _module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: Segments | None = None,
    kernel: str = "pieces",
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within the segments, with the signature of transformers' attention functions.

    Raises:
        ValueError: The model passes a mask or attention dropout, or does not pass the segments on.
    """
    if segments is None or attention_mask is not None or dropout:
        raise ValueError("attention over a shared row takes segments, and neither a mask nor dropout")

    segments.windows.add(sliding_window or 0)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return KERNELS[kernel](query, key, value, segments, scale, sliding_window or 0, softcap or 0.0), None


AttentionInterface.register(NAME, shared_prefix_attention)


def lost_window(config: Any, windows: Collection[int]) -> str:
    """Return the config's sliding window or chunks that no layer passed to attention, in words; "" for none.

    Such a family applies them by its mask alone, and a shared row has no mask.

    Args:
        config: A language model's config.
        windows: The windows that its layers passed to attention (:attr:`Segments.windows`).
    """
    kinds = getattr(config, "layer_types", None) or ()
    chunk, window = (getattr(config, name, None) for name in ("attention_chunk_size", "sliding_window"))
    if chunk or "chunked_attention" in kinds:
        return f"attention in chunks of {chunk} tokens"
    slides = "sliding_attention" in kinds or (window and getattr(config, "use_sliding_window", True))
    is_passed = window in windows if window else any(windows)
    return f"sliding window of {window} tokens" if slides and not is_passed else ""


def kernels_for(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Return the kernels that may work on a device, the fastest first; the last one always works."""
    if device.type != "cuda":
        return ["row", "pieces"] if device.type == "cpu" and _row_works() else ["pieces"]
    kernels = ["flex", "pieces"]
    if dtype in (torch.bfloat16, torch.float16):
        kernels = ["varlen", *(["flash"] if importlib.util.find_spec("flash_attn") else []), *kernels]
    return kernels


@functools.cache
@torch.inference_mode(False)
@torch.enable_grad()
def _row_works() -> bool:
    """Tell whether the kernel `row` gives what `pieces` gives with this version of torch, gradients included."""
    # a prompt of two tokens, with a first completion of one token and a second one of two
    runs = ((slice(0, 3),), (slice(0, 2), slice(3, 5)))
    whole = torch.arange(5)
    segments = Segments((3, 2), (3, 4), torch.tensor([0, 1, 2, 0, 1, 3, 4]), whole, whole, whole, runs)
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 5, 8, generator=draw, requires_grad=True) for _ in range(3))

    results = []
    try:
        for kernel in (_row, _pieces):
            out = kernel(query, key, value, segments, 0.3, 0, 0.0)
            results.append([out, *torch.autograd.grad(out.square().sum(), (query, key, value))])
    except (RuntimeError, TypeError, ValueError):
        return False
    return all(torch.allclose(a, b, 1e-4, 1e-5) for a, b in zip(*results, strict=True))


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float, window: int, softcap: float
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    if softcap:
        raise ValueError("torch's variable-length attention has no soft cap")

    out: Tensor = varlen_attn(  # type: ignore[assignment]
        *_flat(query, key, value, segments),
        scale=scale,
        window_size=(window - 1 if window else -1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out[None]


def _flash(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float, window: int, softcap: float
) -> Tensor:
    out: Tensor = importlib.import_module("flash_attn").flash_attn_varlen_func(
        *_flat(query, key, value, segments),
        softmax_scale=scale,
        causal=True,
        window_size=(window - 1 if window else -1, 0 if window else -1),
        softcap=softcap,
    )
    return out[None]


def _flat(query: Tensor, key: Tensor, value: Tensor, segments: Segments) -> tuple[Any, ...]:
    """Return the arguments of variable-length attention: queries, keys, values, where segments begin, longest segments.

    Queries are [T, heads, d], keys and values [K, key heads, d] in the order of the segments.
    """
    k, v = (part[0].transpose(0, 1).index_select(0, segments.key_K) for part in (key, value))
    longest = max(segments.query_lengths), max(segments.key_lengths)
    return query[0].transpose(0, 1), k, v, *segments.offsets, *longest


def _flex(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float, window: int, softcap: float
) -> Tensor:
    out: Tensor = _flex_attention(query.device.type)(
        query,
        key,
        value,
        score_mod=(lambda score, *_: softcap * torch.tanh(score / softcap)) if softcap else None,
        block_mask=_block_mask(segments, window),
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2)


@functools.cache
def _flex_attention(device: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if device == "cuda" else flex_attention


def _block_mask(segments: Segments, window: int) -> Any:
    """Return FlexAttention's mask: a token sees the earlier tokens of its prompt and of its completion."""
    from torch.nn.attention.flex_attention import create_block_mask

    group, branch, position = segments.group_T, segments.branch_T, segments.position_T

    def sees(_batch: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        is_same_text = (group[q] == group[k]) & ((branch[k] == 0) | (branch[k] == branch[q]))
        distance = position[q] - position[k]
        is_before = (distance >= 0) & (distance < window) if window else distance >= 0
        return is_same_text & is_before

    if ("flex", window) not in segments.masks:
        total = len(group)
        segments.masks["flex", window] = create_block_mask(sees, None, None, total, total, device=str(group.device))
    return segments.masks["flex", window]


def _row(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float, window: int, softcap: float
) -> Tensor:
    if softcap:
        raise ValueError("torch's attention has no soft cap")
    apply: Any = attention_cpu.RowAttention.apply
    out: Tensor = apply(query, key, value, segments, _masks(segments, window, query.dtype), scale)
    return out


def _pieces(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float, window: int, softcap: float
) -> Tensor:
    queries = torch.split(query, list(segments.query_lengths), 2)
    keys, values = (torch.split(x.index_select(2, segments.key_K), list(segments.key_lengths), 2) for x in (key, value))
    pieces = [
        _capped(q, k, v, mask, scale, softcap)
        if softcap
        else F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=True)
        for q, k, v, mask in zip(queries, keys, values, _masks(segments, window, query.dtype), strict=True)
    ]
    return torch.cat([piece.transpose(1, 2) for piece in pieces], 1)


def _masks(segments: Segments, window: int, dtype: torch.dtype) -> list[Tensor | None]:
    """Return each segment's additive mask, [queries, keys]; None for plain causal attention."""
    if (window, dtype) not in segments.masks:
        device = segments.key_K.device
        lengths = zip(segments.query_lengths, segments.key_lengths, strict=True)
        segments.masks[window, dtype] = [
            None if q == k and not 0 < window < k else _mask(q, k, window, dtype, device) for q, k in lengths
        ]
    masks: list[Tensor | None] = segments.masks[window, dtype]
    return masks


def _mask(queries: int, keys: int, window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    distance = torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(keys, device=device)
    is_hidden = (distance < 0) | (distance >= (window or keys))
    return torch.zeros(queries, keys, dtype=dtype, device=device).masked_fill_(is_hidden, float("-inf"))


def _capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float) -> Tensor:
    """Attend with scores capped to ±softcap by tanh, before the mask (arXiv:2408.00118, Gemma 2)."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = softcap * torch.tanh((q @ k.transpose(-1, -2)) * scale / softcap)
    if mask is None:
        mask = _mask(q.shape[2], k.shape[2], 0, scores.dtype, scores.device)
    return torch.softmax((scores + mask).float(), -1).to(q.dtype) @ v


KERNELS: dict[str, Kernel] = {"varlen": _varlen, "flash": _flash, "flex": _flex, "row": _row, "pieces": _pieces}
