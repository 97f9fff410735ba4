"""Answers with the seats of finished ones given to waiting prompts at once (continuous batching), longest prompt first.

All rows end in the same column: texts are padded on the left, and a step adds a column. A seat costs as much when its
answer is short as when it is long, so finished rows leave, and new prompts come in, a few at a time: their keys and
values are computed apart and copied beside those of the rows that stay. Between two such changes a step writes its own
column of the cache and copies nothing.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tasks.dpo.generation.batchwise import completion, left_padded
from tasks.dpo.generation.next_token import next_tokens
from tasks.dpo.generation.questions import Completion, Request, Sampling, Side, draws
from tasks.dpo.generation.sides import switched_to
from tasks.dpo.generation.stop_texts import StopTexts
from tasks.dpo.model.threads import suited_threads

_ROOM = 32  # columns by which the cache grows at once
_SHARE = 4  # seats change when one in so many is free


def can_refill(model: Any) -> bool:
    """Return whether rows of different age can share a batch of this model: each layer attends to keys and values.

    Layers with a state of another kind cannot, nor positions that depend on the longest row, nor chunks of positions.

    Args:
        model: A causal language model of transformers, without PEFT's wrapper.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {entry.get("rope_type") for entry in (rope, *rope.values()) if isinstance(entry, dict)}
    layers = {type(layer) for layer in DynamicCache(config=model.config).layers}
    return (
        "past_key_values" in inspect.signature(model.forward).parameters
        and not getattr(model, "_is_stateful", False)
        and layers <= {DynamicLayer, DynamicSlidingWindowLayer}
        and "chunked_attention" not in (getattr(config, "layer_types", None) or ())
        and kinds.isdisjoint({"dynamic", "longrope"})
    )


def answer_all(
    model: Any,
    requests: Sequence[Request],
    sampling: Sampling,
    side: Side,
    batch_tokens: int,
    stops: StopTexts | None = None,
) -> list[Completion]:
    """Sample an answer for each request, in their order.

    A pure function of its arguments. A batch has as many rows as rows × (longest prompt + new tokens) keeps within
    ``batch_tokens``, and at least one.

    Args:
        model: A PEFT model, policy and reference in one, for which :func:`can_refill` holds.
        requests: The prompts, longest first.
        sampling: How answers are drawn.
        side: Who answers.
        batch_tokens: Padded tokens of a batch.
        stops: Texts at which an answer ends.
    """
    rows = [_Row(request) for request in requests]
    waiting, decoder = deque(rows), _Decoder(model.get_base_model(), sampling, side, stops)
    batch: _Batch | None = None
    with torch.inference_mode(), switched_to(model, side), suited_threads(model):
        while waiting or batch:
            live = batch.live if batch else []
            widest = max(len(row.request.ids) for row in (*live, *([waiting[0]] if waiting else [])))
            most = max(1, batch_tokens // (widest + sampling.max_new_tokens))
            free = min(most - len(live), len(waiting))

            if free > 0 and (free * _SHARE >= most or not live):
                begun = decoder.begin([waiting.popleft() for _ in range(free)])
                batch = _joined([batch, begun] if batch else [begun])
            elif batch and (len(batch.rows) - len(live)) * _SHARE >= len(batch.rows):
                batch = _joined([batch])
            while batch and not decoder.step(batch):
                pass
            if batch and not batch.live:
                batch = None
    return [row.answer for row in rows if row.answer]


@dataclasses.dataclass
class _Row:
    """A prompt that is being answered, and its answer once that has ended."""

    request: Request
    answer: Completion | None = None


@dataclasses.dataclass
class _Batch:
    """Rows that are answered together.

    Attributes:
        rows: One a seat; one that has ended keeps its seat until the seats change.
        prompts: Tokens of each row's prompt, int64 [rows].
        uniforms: What each row's tokens are drawn with, float64 [rows, new tokens].
        ids: Prompts and answers so far, padded on the left, int64 [rows, columns].
        mask: 1 for a token and 0 for padding, int64 [rows, columns].
        cache: Keys and values of all columns but the last.
    """

    rows: list[_Row]
    prompts: Tensor
    uniforms: Tensor
    ids: Tensor
    mask: Tensor
    cache: Cache

    @property
    def live(self) -> list[_Row]:
        """The rows that have not ended."""
        return [row for row in self.rows if row.answer is None]


class _Decoder:
    """Runs a model over batches, a column at a time."""

    def __init__(self, model: Any, sampling: Sampling, side: Side, stops: StopTexts | None) -> None:
        self._model = model
        self._sampling = sampling
        self._side: Side = side
        self._stops = stops
        self._ends = torch.tensor(sampling.eos_token_ids, device=model.device)
        parameters = inspect.signature(model.forward).parameters
        self._has_positions = "position_ids" in parameters
        self._more = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    def begin(self, rows: list[_Row]) -> _Batch:
        """Read the prompts of some rows, and add the first token to each."""
        ids, mask = left_padded([row.request.ids for row in rows], self._sampling.eos_token_ids[0], self._ends.device)
        numbers = [draws(self._sampling.seed, self._side, row.request, self._sampling.max_new_tokens) for row in rows]
        uniforms = torch.from_numpy(np.stack(numbers)).to(ids.device)
        batch = _Batch(rows, mask.sum(dim=1), uniforms, ids, mask, Cache(layer_class_to_replicate=_GrowingLayer))
        self._add_column(batch, (mask.cumsum(dim=1) - 1).clamp_(min=0))
        return batch

    def step(self, batch: _Batch) -> bool:
        """Add a token to each row, and return whether some row has ended with it."""
        # the position of a row that has ended stays: a model may have none behind its last
        last = batch.prompts + self._sampling.max_new_tokens - 2
        return self._add_column(batch, torch.minimum(batch.mask.sum(dim=1) - 1, last)[:, None])

    def _add_column(self, batch: _Batch, positions: Tensor) -> bool:
        """Run the model over the columns at ``positions``, add the next one, and return whether some row has ended."""
        inputs = self._model.prepare_inputs_for_generation(
            batch.ids,
            next_sequence_length=positions.shape[1],
            past_key_values=batch.cache,
            attention_mask=batch.mask,
            is_first_iteration=positions.shape == batch.ids.shape,
            use_cache=True,
            **({"position_ids": positions} if self._has_positions else {}),
            **self._more,
        )
        logits = self._model(**inputs, return_dict=True).logits[:, -1]

        place = batch.mask.sum(dim=1) - batch.prompts  # of the new token in its answer
        uniforms = batch.uniforms.gather(1, place.clamp(max=self._sampling.max_new_tokens - 1)[:, None]).squeeze(1)
        tokens = next_tokens(logits, self._sampling, uniforms, batch.ids, batch.mask)
        batch.ids = torch.cat([batch.ids, tokens[:, None]], dim=1)
        batch.mask = torch.cat([batch.mask, torch.ones_like(tokens)[:, None]], dim=1)
        return self._end_rows(batch, torch.isin(tokens, self._ends) | (place + 1 >= self._sampling.max_new_tokens))

    def _end_rows(self, batch: _Batch, is_last: Tensor) -> bool:
        """Take the answers of the rows whose newest token is the last, or ends a stop string."""
        if self._stops:
            is_last |= is_last.new_tensor([self._stops.can_end(token) for token in batch.ids[:, -1].tolist()])
        has_ended = False
        for place in is_last.nonzero()[:, 0].tolist():
            if (row := batch.rows[place]).answer is None:
                tokens = batch.ids[place, batch.ids.shape[1] - int(batch.mask[place].sum() - batch.prompts[place]) :]
                row.answer = completion(row.request, self._side, tokens.tolist(), self._sampling, self._stops)
                has_ended |= row.answer is not None
        return has_ended


def _joined(batches: list[_Batch]) -> _Batch:
    """Return the rows of all batches that have not ended as one batch, as wide as its longest row."""
    places = [[place for place, row in enumerate(batch.rows) if row.answer is None] for batch in batches]
    rows = [row for batch in batches for row in batch.live]

    def stacked(name: str) -> list[Tensor]:
        return [getattr(batch, name)[kept] for batch, kept in zip(batches, places, strict=True)]

    width = max([int(mask.sum(dim=1).max()) for mask in stacked("mask") if len(mask)], default=1)
    ids, mask = (
        torch.cat([torch.nn.functional.pad(part, (width - part.shape[1], 0)) for part in stacked(name)])
        for name in ("ids", "mask")
    )
    layers = zip(*(batch.cache.layers for batch in batches), strict=True)
    cache = Cache(layers=[_GrowingLayer.joined(each, places, width - 1) for each in layers])
    return _Batch(rows, torch.cat(stacked("prompts")), torch.cat(stacked("uniforms")), ids, mask, cache)


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values, [rows, heads, columns, size], in buffers with free columns: new ones are written in place."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._buffers: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add columns, and return the keys and values of all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, states = self.get_seq_length(), [key_states, value_states]
        end = start + key_states.shape[-2]
        if not self._buffers or end > self._buffers[0].shape[-2]:
            before = [self.keys, self.values] if start else [each[:, :, :0] for each in states]
            everyone = list(range(len(key_states)))
            self._buffers = [_packed([each], [everyone], start, end - start + _ROOM) for each in before]

        for buffer, new in zip(self._buffers, states, strict=True):
            buffer[:, :, start:end] = new
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    @classmethod
    def joined(cls, layers: Sequence[_GrowingLayer], places: list[list[int]], width: int) -> _GrowingLayer:
        """Return the rows at ``places`` of each layer as one layer, their last columns side by side at ``width``."""
        whole = cls()
        whole.lazy_initialization(layers[0].keys, layers[0].values)
        both = [layer.keys for layer in layers], [layer.values for layer in layers]
        whole._buffers = [_packed(parts, places, width, _ROOM) for parts in both]
        whole.keys, whole.values = (buffer[:, :, :width] for buffer in whole._buffers)
        return whole


def _packed(parts: Sequence[Tensor], places: list[list[int]], width: int, room: int) -> Tensor:
    """Copy rows of some tensors, [rows, heads, columns, size], into one: they end at ``width``, before free columns."""
    _, heads, _, size = parts[0].shape
    buffer = parts[0].new_zeros(sum(map(len, places)), heads, width + room, size)  # a NaN would reach the sums
    first = 0
    for part, kept in zip(parts, places, strict=True):
        columns = part[:, :, max(0, part.shape[2] - width) :]
        buffer[first : first + len(kept), :, width - columns.shape[2] : width] = columns[kept]
        first += len(kept)
    return buffer
