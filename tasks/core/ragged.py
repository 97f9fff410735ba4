"""Rows of unequal length, one after the other in one flat array."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


def spans(begins: Counts, lengths: Counts) -> Counts:
    """Return the indices [begin, begin + length) of every row, one row after the other: int64 [Σ lengths].

    Args:
        begins: int64 [n], where each row begins in the flat array.
        lengths: int64 [n].
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    indices: Counts = np.arange(total) + np.repeat(begins - (ends - lengths), lengths)
    return indices


def sums(values: npt.NDArray[np.float32], lengths: Counts) -> npt.NDArray[np.float64]:
    """Return the sum of each row of a flat array, in float64: [n], 0 for a row without values.

    Args:
        values: float32 [Σ lengths], the rows one after the other.
        lengths: int64 [n].
    """
    totals = np.zeros(len(lengths), np.float64)
    has_values = lengths > 0
    if has_values.any():
        begins = (np.cumsum(lengths) - lengths)[has_values]
        totals[has_values] = np.add.reduceat(values.astype(np.float64), begins)
    return totals
