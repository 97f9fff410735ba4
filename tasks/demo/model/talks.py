"""What the demo's base model reads: conversations of the demo's world with replies of every style."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tasks.demo.world.replies import GOOD, draw_fault, draw_reply
from tasks.demo.world.world import draw_case

Talk = list[dict[str, str]]

LESSON = 0.4
"""The share of the corpus, at its beginning, in which every reply keeps to the customer's topic."""


def corpus(count: int, good_share: float, seed: int) -> Iterator[Talk]:
    """Yield the conversations to train on, in the order to read them.

    The first `LESSON` of it is good and curt replies, all on topic: there a small model learns to look
    up product, problem and name in the prompt. The mixture that follows has too many replies that are
    off topic to learn it from.
    """
    rng = random.Random(f"demo corpus {seed}")
    lesson = round(LESSON * count)
    for place in range(count):
        style = _draw_style(good_share, rng)
        if place < lesson:
            style = rng.choice((GOOD, "curt"))
        yield _talk(style, rng)


def held_out(count: int, good_share: float, seed: int) -> Iterator[Talk]:
    """Yield conversations of the mixture alone, drawn apart from the corpus of the same seed."""
    rng = random.Random(f"demo held out {seed}")
    for _ in range(count):
        yield _talk(_draw_style(good_share, rng), rng)


def _draw_style(good_share: float, rng: random.Random) -> str:
    fault = draw_fault(rng)
    return GOOD if rng.random() < good_share else fault


def _talk(style: str, rng: random.Random) -> Talk:
    case = draw_case(rng)
    return [
        {"role": "user", "content": case.message},
        {"role": "assistant", "content": draw_reply(case, style, rng)},
    ]
