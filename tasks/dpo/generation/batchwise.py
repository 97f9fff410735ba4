"""A batch of answers by transformers' `generate`: for any family of models, and for weights sharded over ranks.

The batch runs until its last answer ends. :mod:`tasks.dpo.generation.refilling` is faster where it can be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from tasks.dpo.generation.next_token import next_tokens
from tasks.dpo.generation.questions import Completion, Request, Sampling, Side, draws
from tasks.dpo.generation.sides import switched_to
from tasks.dpo.generation.stop_texts import StopTexts
from tasks.dpo.model.threads import suited_threads


def generate_batch(
    model: Any,
    batch: Sequence[Request],
    sampling: Sampling,
    side: Side,
    is_sharded: bool = False,
    stops: StopTexts | None = None,
) -> list[Completion]:
    """Sample an answer for each request.

    Args:
        model: A PEFT model, policy and reference in one: for the sides `reference` and `control` its adapter is off.
        batch: The prompts.
        sampling: How answers are drawn.
        side: Who answers.
        is_sharded: The model is shared out over the ranks: all of them call this, and go on until the last is done.
        stops: Texts at which an answer ends.
    """
    ids, mask = left_padded([request.ids for request in batch], sampling.eos_token_ids[0], model.device)
    config = GenerationConfig(  # greedy: where tokens are chosen otherwise, _Choice leaves one to choose from
        do_sample=False,
        num_beams=1,
        use_cache=True,
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=list(sampling.eos_token_ids),
        pad_token_id=sampling.eos_token_ids[0],
    )
    plain = model.get_base_model()  # the base with the adapter's layers in place
    plain.generation_config = config  # or transformers would fill gaps of `config` from the model's own
    uniforms = np.stack([draws(sampling.seed, side, request, sampling.max_new_tokens) for request in batch])

    with torch.inference_mode(), switched_to(model, side), suited_threads(model):
        rows = plain.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([_Choice(sampling, torch.from_numpy(uniforms).to(ids.device), mask)]),
            stopping_criteria=StoppingCriteriaList([_Stops(stops, ids.shape[1])] if stops else []),
            synced_gpus=is_sharded,
        )
    answers = rows[:, ids.shape[1] :].tolist()
    ended = (completion(request, side, row, sampling, stops) for request, row in zip(batch, answers, strict=True))
    return [answer for answer in ended if answer]


def completion(
    request: Request, side: Side, row: Sequence[int], sampling: Sampling, stops: StopTexts | None
) -> Completion | None:
    """Return the answer in a row of tokens, which may go on behind its end; None where it has not ended."""
    end = next((place for place, token in enumerate(row) if token in sampling.eos_token_ids), None)
    key = request.prompt_id, side, request.sample
    for count in range(1, len(row[:end]) + 1) if stops else ():
        if stops and (cut := stops.cut(row[:count])):
            return Completion(*key, cut[0], "stop", cut[1], tuple(row[:count]))
    if end is None and len(row) < sampling.max_new_tokens:
        return None
    if end is None:
        return Completion(*key, tuple(row), "length", None, tuple(row))
    return Completion(*key, tuple(row[:end]), "stop", None, tuple(row[: end + 1]))


def left_padded(texts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return texts of different lengths as one tensor, padded on the left, and the mask of their tokens."""
    rows = [torch.tensor(text) for text in texts]
    ids = pad_sequence(rows, True, pad_id, "left").to(device)
    return ids, pad_sequence([torch.ones_like(row) for row in rows], True, 0, "left").to(device)


class _Choice(LogitsProcessor):  # type: ignore[misc]
    """Choose each row's next token, and mask all others for the greedy step after it."""

    def __init__(self, sampling: Sampling, uniforms: Tensor, prompt_mask: Tensor) -> None:
        self._sampling = sampling
        self._uniforms = uniforms
        self._prompt_mask = prompt_mask

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        rows, prompt_width = self._prompt_mask.shape
        step = input_ids.shape[1] - prompt_width
        mask = torch.cat([self._prompt_mask, self._prompt_mask.new_ones(rows, step)], dim=1)
        tokens = next_tokens(scores, self._sampling, self._uniforms[:, step], input_ids, mask)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


class _Stops(StoppingCriteria):  # type: ignore[misc]
    """Ends each row at a stop string."""

    def __init__(self, stops: StopTexts, prompt_width: int) -> None:
        self._stops = stops
        self._prompt_width = prompt_width

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # noqa: ARG002  # transformers' names
        answers = input_ids[:, self._prompt_width :].tolist()
        return torch.tensor([self._stops.cut(answer) is not None for answer in answers], device=input_ids.device)
