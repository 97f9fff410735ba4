"""The demo's preference pairs: customers' messages, each with a good and a faulty reply.

The preference is several things at once (tone, being on topic, stopping in time), and a rejected
reply misses one or two of them. Every prompt comes once; a row's place in the sequence does not
depend on how many rows are asked for.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from tasks.demo.world.replies import GOOD, draw_fault, draw_reply
from tasks.demo.world.world import draw_case


def demo_rows(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield ``count`` preference rows with distinct prompts, the same for the same ``seed``.

    A row has `prompt`, `chosen` and `rejected` as lists of messages (`role`, `content`), and
    `slice`, the kind of problem.
    """
    rng = random.Random(f"demo pairs {seed}")
    seen: set[str] = set()
    while len(seen) < count:
        case = draw_case(rng)
        chosen, rejected = draw_reply(case, GOOD, rng), draw_reply(case, draw_fault(rng), rng)
        if case.message in seen:
            continue
        seen.add(case.message)
        yield {
            "prompt": [{"role": "user", "content": case.message}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
            "slice": case.problem.slice,
        }
