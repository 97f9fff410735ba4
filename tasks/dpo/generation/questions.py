"""What is asked of a model: prompts to answer, how answers are drawn and who draws them; and what comes back."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

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
        top_k: Only so many likeliest tokens can be drawn; None keeps all. It goes before ``top_p``.
        repetition_penalty: Makes tokens of the prompt and of the answer so far less likely above 1; 1 does nothing.
    """

    temperature: float
    top_p: float
    max_new_tokens: int
    eos_token_ids: tuple[int, ...]
    seed: int
    top_k: int | None = None
    repetition_penalty: float = 1.0


@dataclasses.dataclass(frozen=True)
class Request:
    """One answer to sample: a rendered prompt, and which of its samples this is."""

    prompt_id: str
    sample: int
    ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Completion:
    """One sampled answer.

    Attributes:
        prompt_id: Of its request.
        side: Who answered.
        sample: Of its request.
        ids: Its tokens without the end token, or those that hold the text before a stop string.
        finish: `stop` where it reached an end token or a stop string.
        text: The text before the stop string that ended it; None where none did: then it is that of ``ids``.
        drawn: All tokens drawn for it, its end token or those of its stop string among them;
            empty where a server did not tell.
    """

    prompt_id: str
    side: Side
    sample: int
    ids: tuple[int, ...]
    finish: Finish
    text: str | None = None
    drawn: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Questions:
    """All that is asked in one run.

    Attributes:
        requests: The answers to sample, in any order.
        sampling: How they are drawn.
        sides: Who answers; each side answers all of them.
        batch_tokens: Padded tokens, prompt and answer, of a batch.
        stop: Texts at which an answer ends.
    """

    requests: Sequence[Request]
    sampling: Sampling
    sides: Sequence[Side]
    batch_tokens: int
    stop: tuple[str, ...] = ()

    def batches(self) -> list[list[Request]]:
        """Return the requests in batches, longest first."""
        return plan_batches(self.requests, self.sampling.max_new_tokens, self.batch_tokens)


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


def draws(seed: int, side: Side, request: Request, count: int) -> NDArray[np.float64]:
    """Return the uniform numbers in [0, 1) of one answer, one a token."""
    key = hashlib.sha256(f"{seed}/{side}/{request.prompt_id}/{request.sample}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little"))).random(count)
