"""Which side of the split a pair stands on: a pure function of its prompt.

The side depends on the prompt, the share and the seed alone. So a prompt never stands on both
sides, and data that arrive later never move a row that was already there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from tasks.core.errors import DataError
from tasks.pairs.record.pair import Pair


def is_held_out(prompt_json: str, test_share: float, seed: int = 0) -> bool:
    """Tell whether the prompt (as canonical JSON) belongs to the test pairs."""
    digest = hashlib.sha256(f"split {seed}\n{prompt_json}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < test_share * 2**64


def split_pairs(pairs: Iterable[Pair], test_share: float, seed: int = 0) -> tuple[list[Pair], list[Pair]]:
    """Split pairs by prompt into (train, test), each in the order given.

    Raises:
        DataError: One side would be empty.
    """
    sides: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in pairs:
        sides[is_held_out(pair.prompt_json, test_share, seed)].append(pair)
    check_sides(len(sides[0]), len(sides[1]), test_share)
    return sides


def check_sides(train: int, test: int, test_share: float, contradicting: int = 0) -> None:
    """Refuse a split that leaves no pair to train on, or none to test on.

    ``contradicting`` is the number of pairs that were left out because others say the opposite.

    Raises:
        DataError: Saying which side is empty.
    """
    if train and test:
        return
    if contradicting > train + test:
        raise DataError(
            f"{contradicting} pairs also stand with chosen and rejected swapped, which leaves {train} training and "
            f"{test} test pairs",
            "name every column that the prompt is made of under `ingest.columns`, or set `ingest.contradictions: keep`",
        )
    side, advice = ("training", "lower") if not train else ("test", "raise")
    raise DataError(
        f"the {side} set is empty: {train} training and {test} test pairs at a test share of {test_share}",
        f"{advice} `ingest.test_share`, or add pairs with other prompts",
    )
