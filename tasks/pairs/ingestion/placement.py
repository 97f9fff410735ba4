"""Where a pair goes by its prompt alone: to the split by its key, or to neither side."""

from __future__ import annotations

import dataclasses

from tasks.pairs.ingestion.keep_out import KeptOut
from tasks.pairs.ingestion.split import split_key, split_text
from tasks.pairs.record.pair import Pair, Rejection


@dataclasses.dataclass(frozen=True)
class Placement:
    """The rules by which pairs are placed, each by itself; it can be pickled.

    Attributes:
        seed: Of the split.
        kept_out: The prompts of evaluation sets.
    """

    seed: int = 0
    kept_out: KeptOut = dataclasses.field(default_factory=KeptOut)

    def place(self, pair: Pair) -> int | Rejection:
        """Return the key that decides on a pair's side, or the evaluation set that keeps it out."""
        words = split_text(pair)
        if detail := self.kept_out.match(words):
            return Rejection(pair.source, "kept_out", detail)
        return split_key(words, self.seed)
