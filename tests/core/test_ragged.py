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


@pytest.mark.parametrize(
    ("begins", "lengths"),
    [((5, 9, 0), (2, 0, 3)), ((2, 4, 4), (2, 0, 3)), ((), ()), ((4,), (0,)), ((7, 0), (3, 2)), ((0, 5), (5, 5))],
)
def test_rows_are_taken_from_their_places_and_put_there(begins: tuple[int, ...], lengths: tuple[int, ...]) -> None:
    flat = np.arange(10)
    rows = [flat[begin : begin + length].tolist() for begin, length in zip(begins, lengths, strict=True)]
    taken = ragged.take(flat, counts(*begins), counts(*lengths))
    assert taken.tolist() == [value for row in rows for value in row]

    empty = np.zeros(10, np.int64)
    ragged.put(empty, counts(*begins), counts(*lengths), taken)
    assert sorted(empty[empty != 0].tolist()) == sorted(value for row in rows for value in row if value)
    assert ragged.take(empty, counts(*begins), counts(*lengths)).tolist() == taken.tolist()


def test_rows_that_lie_one_after_the_other_are_not_copied() -> None:
    flat = np.arange(10)
    assert np.shares_memory(ragged.take(flat, counts(2, 4, 4), counts(2, 0, 3)), flat)
