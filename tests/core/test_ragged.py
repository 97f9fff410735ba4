"""Rows of unequal length in one flat array."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.core import ragged


def counts(*numbers: int) -> ragged.Counts:
    return np.array(numbers, np.int64)


def test_spans_are_the_places_of_each_row_in_the_order_asked():
    # a row of 2 from place 5 on, one of none, one of 3 from place 0 on
    assert ragged.spans(counts(5, 9, 0), counts(2, 0, 3)).tolist() == [5, 6, 0, 1, 2]
    assert ragged.spans(counts(), counts()).tolist() == []
    assert ragged.spans(counts(4), counts(0)).tolist() == []


def test_sums_are_those_of_each_row_and_0_for_a_row_without_values():
    values = np.array([1, 2, 3, 4, 5], np.float32)
    assert ragged.sums(values, counts(0, 2, 0, 3, 0)).tolist() == [0, 3, 0, 12, 0]
    assert ragged.sums(values[:0], counts(0, 0)).tolist() == [0, 0]
    assert ragged.sums(values[:0], counts()).tolist() == []


def test_sums_are_float64():
    # 1 beside 2^24 is lost in float32
    assert ragged.sums(np.array([2**24, 1, 1], np.float32), counts(3)).tolist() == [2**24 + 2]


@pytest.mark.parametrize("seed", range(3))
def test_sums_agree_with_a_loop(seed: int):
    draw = np.random.default_rng(seed)
    lengths = draw.integers(0, 9, 50)
    values = draw.normal(size=int(lengths.sum())).astype(np.float32)
    parts = np.split(values, np.cumsum(lengths)[:-1])
    assert ragged.sums(values, lengths) == pytest.approx([float(part.astype(np.float64).sum()) for part in parts])
