"""What tokenising did to one split, counted for metrics.json."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.pairs.encoding.encoder import EncodedPair
from tasks.pairs.encoding.rowcode import CUT, RERENDERED, SHIFTED, EncodedRows
from tasks.pairs.tokens.token_cache import Ids, TokenPairs

_NAMES = ("prompt", "chosen", "rejected")
_NUMBERS = ("shifted", "rerendered", "unknown", "plain")


@dataclasses.dataclass
class Tally:
    """Counts over the pairs of one split.

    Attributes:
        lengths: Of prompt, chosen and rejected, [kept, 3] a batch.
        dropped: Dropped pairs by reason.
        cut: Rows of which prompt, chosen or rejected were cut.
        shifted: Rows whose prompt ends before generation's, because tokens merge into the reply.
        rerendered: Rows whose template renders the prompt differently before a reply.
        unknown: Rows with the tokenizer's unknown token.
        plain: Rows whose prompt is plain text.
        first_detail: The first dropped pair of each reason: its place and what was wrong.
        unk_id: The tokenizer's unknown token, if it has one of its own.
    """

    lengths: list[Ids] = dataclasses.field(default_factory=list)
    dropped: Counter[str] = dataclasses.field(default_factory=Counter)
    cut: Counter[str] = dataclasses.field(default_factory=Counter)
    shifted: int = 0
    rerendered: int = 0
    unknown: int = 0
    plain: int = 0
    first_detail: dict[str, str] = dataclasses.field(default_factory=dict)
    unk_id: int | None = None

    def add(self, rows: EncodedRows, tokens: TokenPairs, is_text: npt.NDArray[np.bool_]) -> None:
        """Count a batch that was kept or dropped; ``is_text`` [n] says which prompts are plain text."""
        self.lengths.append(tokens.lengths)
        kept = rows.is_kept
        self.rerendered += int(rows.has(RERENDERED).sum())
        self.shifted += int((kept & rows.has(SHIFTED)).sum())
        self.plain += int((kept & is_text).sum())
        self.cut.update({name: int((kept & rows.has(bit)).sum()) for name, bit in zip(_NAMES, CUT, strict=True)})
        if self.unk_id is not None:
            places = np.flatnonzero(tokens.ids == self.unk_id)
            self.unknown += len(np.unique(np.searchsorted(tokens.starts, places, side="right")))

    def drop(self, encoded: EncodedPair) -> None:
        """Count a dropped pair."""
        self.dropped[encoded.reason] += 1
        place = encoded.pair.source or encoded.pair.pair_id
        self.first_detail.setdefault(encoded.reason, f"{place}: {encoded.detail[:200]}")

    def merge(self, other: Tally) -> None:
        """Add the counts of the rows that come behind."""
        self.lengths += other.lengths
        self.dropped.update(other.dropped)
        self.cut.update(other.cut)
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.first_detail = other.first_detail | self.first_detail

    def to_json(self) -> str:
        """Return the counts as JSON, without the lengths."""
        names = ("dropped", "cut", "first_detail", *_NUMBERS)
        return json.dumps({name: getattr(self, name) for name in names})

    @classmethod
    def from_json(cls, text: str, lengths: Ids) -> Tally:
        """Read what :meth:`to_json` wrote; ``lengths`` [kept, 3] are those of the rows."""
        values: dict[str, Any] = json.loads(text)
        values |= {name: Counter(values[name]) for name in ("dropped", "cut")}
        return cls(lengths=[lengths], **values)

    def kept(self) -> int:
        """Return how many pairs have a row."""
        return sum(map(len, self.lengths))

    def longer_than(self, most: int) -> int:
        """Return how many rows have a branch of more than ``most`` tokens."""
        return int((self._branches() > most).sum())

    def longest(self) -> int:
        """Return the number of tokens of the longest branch."""
        return int(self._branches().max(initial=0))

    def _branches(self) -> Ids:
        """Return the number of tokens of each row's longer branch, [kept]."""
        lengths = np.concatenate([np.zeros((0, 3), dtype=np.int32), *self.lengths])
        longer: Ids = lengths[:, 0] + np.maximum(lengths[:, 1], lengths[:, 2])
        return longer

    def metrics(self) -> dict[str, Any]:
        """Return the counts as `dvc metrics` shows them."""
        lengths = np.concatenate([np.zeros((0, 3), dtype=np.int32), *self.lengths])
        return {
            "pairs": len(lengths),
            "tokens": int(lengths.sum(dtype=np.int64)),
            **{f"{name}_tokens": _spread(lengths[:, i]) for i, name in enumerate(_NAMES)},
            "longest_branch_tokens": self.longest(),
            "cut": {name: self.cut[name] for name in _NAMES},
            "dropped": dict(sorted(self.dropped.items())),
            "boundary_shifted": self.shifted,
            "template_rerendered": self.rerendered,
            "unknown_tokens": self.unknown,
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
