"""Attention over a shared row on a CPU, as one operation that writes each segment's result into its place in the row.

torch's attention, called by autograd a segment at a time, copies keys and values into segments and results out of
them, saves both, and copies as much again in backward. Here only the row's queries, keys, values and result are saved,
and gradients are accumulated in place. The kernels are torch's, forward and backward.

Shapes: query [1, heads, Q, d], key and value [1, key heads, T, d] for a row of T tokens; result [1, Q, heads, d].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tasks.dpo.scoring.layout import Segments

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class RowAttention(torch.autograd.Function):
    """softmax(scale q kᵀ + mask) v within each segment; gradients for query, key and value."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        segments: Segments,
        masks: list[Tensor | None],
        scale: float,
    ) -> Tensor:
        """Return the result; ``masks`` are the segments' additive masks, None for plain causal attention."""
        _, heads, tokens, size = query.shape
        result = query.new_empty(1, tokens, heads, size)

        sums = []
        for part, keys, mask in _parts(segments, masks):
            pieces = _of_queries(key, keys, heads), _of_queries(value, keys, heads)
            out, logsumexp = _flash(query[:, :, part], *pieces, 0.0, mask is None, attn_mask=mask, scale=scale)
            result[:, part] = out.transpose(1, 2)
            sums.append(logsumexp)

        ctx.save_for_backward(query, key, value, result, *sums)
        ctx.segments, ctx.masks, ctx.scale = segments, masks, scale
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of query, key and value."""
        query, key, value, result, *sums = ctx.saved_tensors
        heads = query.shape[1]
        d_query, d_key, d_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)

        for (part, keys, mask), logsumexp in zip(_parts(ctx.segments, ctx.masks), sums, strict=True):
            dq, *d_pieces = _flash_backward(
                grads[0][:, part].transpose(1, 2),
                query[:, :, part],
                _of_queries(key, keys, heads),
                _of_queries(value, keys, heads),
                result[:, part].transpose(1, 2),
                logsumexp,
                0.0,
                mask is None,
                attn_mask=mask,
                scale=ctx.scale,
            )
            # a segment has queries of its own; keys and values of a prompt are in several segments
            d_query[:, :, part] = dq
            for total, piece in zip((d_key, d_value), d_pieces, strict=True):
                _add(total, keys, piece)
        return d_query, d_key, d_value, None, None, None


def _parts(segments: Segments, masks: list[Tensor | None]) -> Iterator[tuple[slice, tuple[slice, ...], Tensor | None]]:
    """Yield each segment's places of queries, places of keys, and mask."""
    start = 0
    for length, keys, mask in zip(segments.query_lengths, segments.key_runs, masks, strict=True):
        yield slice(start, start + length), keys, mask
        start += length


def _of_queries(rows: Tensor, runs: tuple[slice, ...], heads: int) -> Tensor:
    """Return a segment's keys or values, repeated for each query head: [1, heads, keys, d]."""
    part = rows[:, :, runs[0]] if len(runs) == 1 else torch.cat([rows[:, :, run] for run in runs], 2)
    groups = heads // rows.shape[1]
    return part.repeat_interleave(groups, 1) if groups > 1 else part


def _add(total: Tensor, runs: tuple[slice, ...], piece: Tensor) -> None:
    """Add a segment's gradient [1, heads, keys, d] to the row's, summed over the query heads of each key head."""
    if (groups := piece.shape[1] // total.shape[1]) > 1:
        piece = piece.view(1, total.shape[1], groups, *piece.shape[2:]).sum(2)
    start = 0
    for run in runs:
        total[:, :, run] += piece[:, :, start : start + run.stop - run.start]
        start += run.stop - run.start
