"""All sides in one model: one base, its adapters switched on and off; and how far the policy's moves the logits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from tasks.dpo.generation.questions import CHAMPION, Side
from tasks.dpo.model.threads import suited_threads


@contextlib.contextmanager
def switched_to(model: Any, side: Side) -> Iterator[None]:
    """Switch to the adapter of a side, or off for `reference` and `control`; afterwards back to the policy's."""
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


def max_abs_delta_logit(model: Any, prompts: Sequence[Sequence[int]]) -> float:
    """Return the largest |Δlogit| between policy and reference after any prompt; 0 means an adapter without effect.

    Each prompt is run alone, so that padding makes no difference.
    """
    largest = 0.0
    for prompt in prompts:
        ids = torch.tensor([list(prompt)], device=model.device)
        with torch.inference_mode(), suited_threads(model):
            on = model(input_ids=ids).logits[0, -1].float()
            with switched_to(model, "reference"):
                off = model(input_ids=ids).logits[0, -1].float()
        largest = max(largest, float((on - off).abs().max()))
    return largest
