"""Two control judges that ignore quality: a win rate that they give, too, is no evidence of quality."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core.files import canonical_json, digest_of, sha256_bytes
from tasks.judges.protocol import Item, Opinion, opinion_of
from tasks.judges.texts import words


class LengthJudge:
    """Prefers the answer with more words: shows how much of a win rate length alone explains."""

    fingerprint = digest_of(["length", 1])  # kind and version: there are no settings

    def judge(self, items: Sequence[Item]) -> list[Opinion]:
        """Count words; equal counts are a tie."""
        return [self._judge_one(item) for item in items]

    def _judge_one(self, item: Item) -> Opinion:
        first, second = len(words(item.first.text)), len(words(item.second.text))
        p_first = 0.5 if first == second else float(first > second)
        return opinion_of(p_first, {"first": {"words": first}, "second": {"words": second}})


class RandomJudge:
    """Flips a coin for every item as shown: the expected win rate is one half."""

    def __init__(self, seed: int) -> None:
        """Fix the coin's seed."""
        self._seed = seed
        self.fingerprint = digest_of(["random", 1, seed])  # kind, version and seed

    def judge(self, items: Sequence[Item]) -> list[Opinion]:
        """Derive the coin from a hash of the seed and all that is shown: repeatable, and different for each order."""
        return [opinion_of(self._coin(item)) for item in items]

    def _coin(self, item: Item) -> float:
        shown = canonical_json([self._seed, item.item_id, item.question, item.first.text, item.second.text])
        return float(int(sha256_bytes(shown.encode())[:8], 16) % 2)
