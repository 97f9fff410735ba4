"""A data set in blocks of a bounded size: what is scored, and held in memory, at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tasks.core import ragged
from tasks.pairs.tokens.token_cache import TokenPairs

Logps = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

BLOCK_TOKENS = 1 << 22  # completion tokens that are in memory at once, whatever the size of the data
BLOCK_ROWS = 1 << 13  # pairs likewise


class Block:
    """Some rows of a data set that are being scored.

    Attributes:
        tokens: The rows, n of them.
        lengths: Completion tokens of each row, int64 [n].
        begins: Where each row begins in ``flat``, int64 [n].
        flat: float32 [Σ lengths], the log-probabilities, zero where a row is not done.
        is_done: Which rows have their values, bool [n].
        was_stored: Which rows the row store had before any was scored, with their values on rank 0 alone, bool [n].
        is_stored: Which rows the row store has by now, bool [n].
        keys: The rows' keys in the row store, uint8 [n, 32]; [0, 32] without a store.
    """

    def __init__(self, tokens: TokenPairs) -> None:
        self.tokens = tokens
        self.lengths = completion_tokens(tokens)
        self.begins: Rows = np.cumsum(self.lengths) - self.lengths
        self.flat: Logps = np.zeros(int(self.lengths.sum()), np.float32)
        self.is_done: Mask = np.zeros(len(tokens), bool)
        self.was_stored: Mask = np.zeros(len(tokens), bool)
        self.is_stored: Mask = np.zeros(len(tokens), bool)
        self.keys: npt.NDArray[np.uint8] = np.zeros((0, 32), np.uint8)

    def put(self, rows: Rows, values: Logps) -> None:
        """Take over the values of ``rows``, one row after the other; rows with a NaN or inf stay missing."""
        lengths = self.lengths[rows]
        is_finite = ragged.sums((~np.isfinite(values)).astype(np.float32), lengths) == 0
        rows, values = rows[is_finite], values[np.repeat(is_finite, lengths)]
        self.flat[ragged.spans(self.begins[rows], self.lengths[rows])] = values
        self.is_done[rows] = True


def completion_tokens(tokens: TokenPairs) -> Rows:
    """Return the completion tokens of each pair, C + R: int64 [n]."""
    counts: Rows = tokens.lengths[:, 1:].sum(axis=1, dtype=np.int64)
    return counts


def cuts(lengths: Rows) -> Iterator[tuple[int, int]]:
    """Yield runs [first, last) of rows, of at most BLOCK_TOKENS values and BLOCK_ROWS rows; a longer row is alone.

    Args:
        lengths: Values of each row, int64 [n].
    """
    ends, first = np.cumsum(lengths), 0
    while first < len(lengths):
        before = int(ends[first] - lengths[first])
        fits = int(np.searchsorted(ends, before + BLOCK_TOKENS, side="right"))
        last = max(first + 1, min(fits, first + BLOCK_ROWS))
        yield first, last
        first = last


def part(tokens: TokenPairs, first: int, last: int) -> TokenPairs:
    """Return the rows [first, last) of a data set, as views."""
    begin = int(tokens.starts[first])
    end = int(tokens.starts[last - 1]) + int(tokens.lengths[last - 1].sum(dtype=np.int64))
    names = [field.name for field in dataclasses.fields(tokens) if field.name != "ids"]
    return TokenPairs(ids=tokens.ids[begin:end], **{name: getattr(tokens, name)[first:last] for name in names})
