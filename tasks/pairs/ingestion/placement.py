"""Where a pair goes by its prompt alone: to train, to test, or to neither."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from tasks.pairs.ingestion.keep_out import KeptOut
from tasks.pairs.ingestion.split import is_held_out, split_key, split_text
from tasks.pairs.record.pair import Pair, Rejection


class Place(NamedTuple):
    """What the split needs to know of a pair.

    Attributes:
        split_key: The hash of its prompt's words, 64 bits.
        is_held_out: Whether it belongs to the test pairs.
    """

    split_key: int
    is_held_out: bool


@dataclasses.dataclass(frozen=True)
class Placement:
    """The rules by which pairs are placed, each by itself; it can be pickled.

    Attributes:
        test_share: The share of prompts that are held out.
        seed: Of the split.
        kept_out: The prompts of evaluation sets.
    """

    test_share: float
    seed: int = 0
    kept_out: KeptOut = dataclasses.field(default_factory=KeptOut)

    def place(self, pair: Pair) -> Place | Rejection:
        """Return a pair's place, or the evaluation set that keeps it out."""
        words = split_text(pair)
        if detail := self.kept_out.match(words):
            return Rejection(pair.source, "kept_out", detail)
        key = split_key(words, self.seed)
        return Place(key, is_held_out(key, self.test_share))
