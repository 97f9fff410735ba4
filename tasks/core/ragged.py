"""Rows of unequal length, one after the other in one flat array."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]
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


def take(flat: Values, begins: Counts, lengths: Counts) -> Values:
    """Return rows of a flat array, one after the other: [Σ lengths], a view where they lie so already.

    Args:
        flat: The rows, in any order.
        begins: int64 [n], where each row begins in ``flat``.
        lengths: int64 [n].
    """
    if not len(begins):
        return flat[:0]
    ends = begins + lengths
    if (begins[1:] == ends[:-1]).all():
        return flat[begins[0] : ends[-1]]
    # several times faster than an index of every value, as soon as a row has some ten values
    return np.concatenate([flat[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)])


def put(flat: Values, begins: Counts, lengths: Counts, values: Values) -> None:
    """Write rows, which ``values`` has one after the other, to their places in a flat array.

    Args:
        flat: Is written to.
        begins: int64 [n], where each row begins in ``flat``.
        lengths: int64 [n].
        values: [Σ lengths].
    """
    if len(begins) and (begins[1:] == begins[:-1] + lengths[:-1]).all():
        flat[begins[0] : begins[-1] + lengths[-1]] = values
    else:
        flat[spans(begins, lengths)] = values


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
