"""Two control judges that ignore quality: a win rate that they give, too, is no evidence of quality."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core.files import canonical_json, digest_of, sha256_bytes
from tasks.judges.protocol.protocol import Item, Opinion, Response, Score, opinion_of
from tasks.judges.rules.texts import words


class LengthScorer:
    """Prefers the answer with more words: shows how much of a win rate length alone explains."""

    fingerprint = digest_of(["length", 1])  # kind and version: there are no settings
    dead_band = 0.0
    is_soft = False

    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Count words; equal counts are a tie."""
        counts = [len(words(response.answer.text)) for response in responses]
        return [Score(float(count), {"words": count}) for count in counts]


class RandomJudge:
    """Flips a coin for every item as shown: the expected win rate is one half."""

    at_once = 1

    def __init__(self, seed: int) -> None:
        """Fix the coin's seed."""
        self._seed = seed
        self.fingerprint = digest_of(["random", 1, seed])  # kind, version and seed

    async def judge(self, item: Item) -> Opinion:
        """Derive the coin from a hash of the seed and all that is shown: repeatable, and different for each order."""
        shown = canonical_json([self._seed, item.item_id, item.prompt.question, item.first.text, item.second.text])
        return opinion_of(float(int(sha256_bytes(shown.encode())[:8], 16) % 2))
