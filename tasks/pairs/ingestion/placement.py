"""Where a pair goes by its prompt alone: to the split by its key, or to neither side."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from tasks.core.files import digest_of
from tasks.pairs.ingestion.keep_out import KeptOut
from tasks.pairs.ingestion.near import signature
from tasks.pairs.ingestion.split import split_key, split_key_of, split_text
from tasks.pairs.record.pair import Pair
from tasks.pairs.record.rejection import Rejection


class Place(NamedTuple):
    """What the split needs to know of a pair's prompt.

    Attributes:
        split_key: The hash that decides on its side.
        letters: Its words without spaces, where near-duplicates are looked for; else empty.
        signature: Their :func:`tasks.pairs.ingestion.near.signature`, else empty.
    """

    split_key: int
    letters: str = ""
    signature: bytes = b""


@dataclasses.dataclass(frozen=True)
class Placement:
    """The rules by which pairs are placed, each by itself; it can be pickled.

    Attributes:
        seed: Of the split.
        kept_out: The prompts of evaluation sets.
        finds_near: Whether near-duplicates are looked for.
    """

    seed: int = 0
    kept_out: KeptOut = dataclasses.field(default_factory=KeptOut)
    finds_near: bool = False

    def digest(self) -> str:
        """Return a SHA-256 in hex over all that decides where a pair goes."""
        return digest_of([self.seed, self.finds_near, self.kept_out.digest()])

    def place(self, pair: Pair) -> Place | Rejection:
        """Return what decides on a pair's side, or the evaluation set that keeps it out."""
        if not self.kept_out.prompts and not self.finds_near:
            return Place(split_key_of(pair, self.seed))
        words = split_text(pair)
        if detail := self.kept_out.match(words):
            return Rejection(pair.source, "kept_out", detail)
        key = split_key(words, self.seed)
        if not self.finds_near:
            return Place(key)
        letters = words.replace(" ", "")
        return Place(key, letters, signature(letters))
