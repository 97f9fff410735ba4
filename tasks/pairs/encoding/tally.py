"""What tokenising did to one split, counted for metrics.json."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np

from tasks.pairs.encoding.encoder import EncodedPair
from tasks.pairs.tokens.token_cache import Ids

_NAMES = ("prompt", "chosen", "rejected")


@dataclasses.dataclass
class Tally:
    """Counts over the pairs of one split."""

    lengths: list[Ids] = dataclasses.field(default_factory=list)
    dropped: Counter[str] = dataclasses.field(default_factory=Counter)
    cut: Counter[str] = dataclasses.field(default_factory=Counter)
    shifted: int = 0
    rerendered: int = 0

    def add(self, encoded: list[EncodedPair], lengths: Ids) -> None:
        """Count a batch; ``lengths`` [kept, 3] are those of its rows."""
        self.lengths.append(lengths)
        for each in encoded:
            self.rerendered += each.is_rerendered
            if each.made is None:
                self.dropped[each.reason] += 1
                continue
            self.shifted += each.made.is_shifted
            self.cut.update(name for name, was_cut in zip(_NAMES, each.made.cut, strict=True) if was_cut)

    def kept(self) -> int:
        """Return how many pairs have a row."""
        return sum(map(len, self.lengths))

    def metrics(self) -> dict[str, Any]:
        """Return the counts as `dvc metrics` shows them."""
        lengths = np.concatenate([np.zeros((0, 3), dtype=np.int32), *self.lengths])
        longest = lengths[:, 0] + np.maximum(lengths[:, 1], lengths[:, 2])
        return {
            "pairs": len(lengths),
            "tokens": int(lengths.sum(dtype=np.int64)),
            **{f"{name}_tokens": _spread(lengths[:, i]) for i, name in enumerate(_NAMES)},
            "longest_branch_tokens": int(longest.max()) if len(longest) else 0,
            "cut": {name: self.cut[name] for name in _NAMES},
            "dropped": dict(sorted(self.dropped.items())),
            "boundary_shifted": self.shifted,
            "template_rerendered": self.rerendered,
        }


def _spread(lengths: Ids) -> dict[str, float]:
    """Return mean, median, 95th percentile and maximum."""
    if not len(lengths):
        return {}
    return {
        "mean": round(float(lengths.mean()), 2),
        "p50": round(float(np.percentile(lengths, 50)), 2),
        "p95": round(float(np.percentile(lengths, 95)), 2),
        "max": int(lengths.max()),
    }
