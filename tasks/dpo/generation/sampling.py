"""Answers sampled from the policy and from the reference: one base, its adapter switched on and off.

Every token is drawn with its own uniform number, a pure function of (seed, side, prompt, sample, position). So an
answer depends on the model's probabilities alone: not on the other rows of its batch, not on the number of ranks, not
on what was sampled before. All sides run the same batches.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from tasks.dpo.model.threads import suited_threads

Side = Literal["policy", "reference", "control", "champion"]
Finish = Literal["stop", "length"]

# The control is the reference again with other draws: judged against the reference it must win one half.
SIDES: tuple[Side, ...] = ("policy", "reference", "control")
CHAMPION: Side = "champion"
"""PEFT's name of the champion's adapter, beside the policy's."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How answers are drawn; the model's own generation config is not used.

    Attributes:
        temperature: Logits are divided by it; 0 takes the likeliest token, and nothing is drawn.
        top_p: Only the likeliest tokens that together reach this probability can be drawn; 1 keeps all.
        max_new_tokens: An answer is cut after so many tokens.
        eos_token_ids: Any of these ends an answer.
        seed: Of all draws.
    """

    temperature: float
    top_p: float
    max_new_tokens: int
    eos_token_ids: tuple[int, ...]
    seed: int


@dataclasses.dataclass(frozen=True)
class Request:
    """One answer to sample: a rendered prompt, and which of its samples this is."""

    prompt_id: str
    sample: int
    ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Completion:
    """One sampled answer: its tokens without the end token, and whether it reached an end token."""

    prompt_id: str
    side: Side
    sample: int
    ids: tuple[int, ...]
    finish: Finish


def plan_batches(requests: Sequence[Request], max_new_tokens: int, batch_tokens: int) -> list[list[Request]]:
    """Group requests, longest first, so that rows × (longest prompt + new tokens) stays within the budget.

    A pure function of its arguments: every side and every number of ranks runs the same batches. A row that is longer
    than the budget is a batch of one.
    """
    batches: list[list[Request]] = []
    for request in sorted(requests, key=lambda one: (-len(one.ids), one.prompt_id, one.sample)):
        width = len(batches[-1][0].ids) + max_new_tokens if batches else 0
        if batches and (len(batches[-1]) + 1) * width <= batch_tokens:
            batches[-1].append(request)
        else:
            batches.append([request])
    return batches


def generate_batch(
    model: Any, batch: Sequence[Request], sampling: Sampling, side: Side, is_sharded: bool = False
) -> list[Completion]:
    """Sample an answer for each request.

    Args:
        model: A PEFT model, policy and reference in one: for the sides `reference` and `control` its adapter is off.
        batch: The prompts.
        sampling: How answers are drawn.
        side: Who answers.
        is_sharded: The model is shared out over the ranks: all of them call this, and go on until the last is done.
    """
    texts = [torch.tensor(request.ids) for request in batch]
    ids = pad_sequence(texts, True, sampling.eos_token_ids[0], "left").to(model.device)
    mask = pad_sequence([torch.ones_like(text) for text in texts], True, 0, "left").to(model.device)
    config = GenerationConfig(  # greedy: where tokens are drawn, _Draw leaves one to choose from
        do_sample=False,
        num_beams=1,
        use_cache=True,
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=list(sampling.eos_token_ids),
        pad_token_id=sampling.eos_token_ids[0],
    )
    plain = model.get_base_model()  # the base with the adapter's layers in place
    plain.generation_config = config  # or transformers would fill gaps of `config` from the model's own

    with torch.inference_mode(), _adapter(model, side), suited_threads(model):
        rows = plain.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=_processors(batch, sampling, side, ids.shape[1]),
            synced_gpus=is_sharded,
        )

    completions = []
    for request, row in zip(batch, rows[:, ids.shape[1] :].tolist(), strict=True):
        end = next((place for place, token in enumerate(row) if token in sampling.eos_token_ids), None)
        finish: Finish = "length" if end is None else "stop"
        completions.append(Completion(request.prompt_id, side, request.sample, tuple(row[:end]), finish))
    return completions


def max_abs_delta_logit(model: Any, prompts: Sequence[Sequence[int]]) -> float:
    """Return the largest |Δlogit| between policy and reference after any prompt; 0 means an adapter without effect.

    Each prompt is run alone, so that padding makes no difference.
    """
    largest = 0.0
    for prompt in prompts:
        ids = torch.tensor([list(prompt)], device=model.device)
        with torch.inference_mode(), suited_threads(model):
            on = model(input_ids=ids).logits[0, -1].float()
            with _adapter(model, "reference"):
                off = model(input_ids=ids).logits[0, -1].float()
        largest = max(largest, float((on - off).abs().max()))
    return largest


def _processors(batch: Sequence[Request], sampling: Sampling, side: Side, prompt_width: int) -> LogitsProcessorList:
    """Return what changes the logits at each step: temperature, top-p, the draw; nothing for greedy decoding."""
    steps = LogitsProcessorList()
    if not sampling.temperature:
        return steps
    if sampling.temperature != 1.0:
        steps.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_p < 1.0:
        steps.append(TopPLogitsWarper(sampling.top_p))
    uniforms = [draws(sampling.seed, side, request, sampling.max_new_tokens) for request in batch]
    steps.append(_Draw(np.stack(uniforms), prompt_width))
    return steps


def draws(seed: int, side: Side, request: Request, count: int) -> NDArray[np.float64]:
    """Return the uniform numbers in [0, 1) of one answer, one a token."""
    key = hashlib.sha256(f"{seed}/{side}/{request.prompt_id}/{request.sample}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little"))).random(count)


class _Draw(LogitsProcessor):  # type: ignore[misc]
    """Draw each row's next token by inverse transform sampling, and mask all others for the greedy step after it."""

    def __init__(self, uniforms: NDArray[np.float64], prompt_width: int) -> None:
        self._uniforms = torch.from_numpy(uniforms)
        self._prompt_width = prompt_width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self._prompt_width
        cumulative = torch.softmax(scores.double(), dim=-1).cumsum(dim=-1)  # [rows, vocabulary]
        level = self._uniforms[:, step].to(scores.device) * cumulative[:, -1]
        token = torch.searchsorted(cumulative, level[:, None], right=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, token.clamp_(max=scores.shape[1] - 1), 0.0)


@contextlib.contextmanager
def _adapter(model: Any, side: Side) -> Iterator[None]:
    """Switch to the adapter of a side, or off; afterwards back to the policy's."""
    if side == "policy":
        yield
    elif side != CHAMPION:
        with model.disable_adapter():
            yield
    else:
        active = model.active_adapter
        model.set_adapter(CHAMPION, inference_mode=True)
        try:
            yield
        finally:
            model.set_adapter(active, inference_mode=True)
