"""Filters: which values of a field count, in JSON and in CSV, and what is refused."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest

from tasks.core.errors import ConfigError
from tasks.core.params import build
from tasks.ingest import IngestConfig
from tasks.pairs.ingestion.filters import Wanted, matches, read_conditions
from tasks.pairs.ingestion.intake import read_pairs
from tests.pairs.samples import text_rows


def kept(wanted: Wanted, *values: Any) -> list[Any]:
    conditions = read_conditions({"x": wanted})
    return [value for value in values if matches({"x": value}, conditions)]


def test_a_value_and_a_list_keep_what_equals_and_true_is_not_1() -> None:
    assert kept("en", "en", "EN", " en", None, ["en"]) == ["en"]
    assert kept(("en", "de"), "en", "de", "fr") == ["en", "de"]
    assert kept({"in": ("en", "de")}, "en", "de", "fr") == ["en", "de"]
    assert kept(1, 1, 1.0, True, 2) == [1, 1.0]
    assert kept(True, 1, True, False) == [True]


def test_a_text_that_spells_a_value_is_that_value_beside_one_and_a_text_beside_a_text() -> None:
    assert kept(5, "5", "5.0", " 5 ", "five", "05") == ["5", "5.0", " 5 ", "05"]
    assert kept("05", "5", "05", 5) == ["05", 5]
    assert kept(True, "true", "True", "1", "yes") == ["true", "True"]
    assert kept({"not": 3}, "3", "4", 3, None) == ["4", None]
    assert kept(12345678901234567890, "12345678901234567890", "12345678901234567891") == ["12345678901234567890"]


def test_not_keeps_rows_without_the_field_and_the_others_do_not() -> None:
    row = {"y": 1}
    assert matches(row, read_conditions({"x": {"not": "a"}}))
    assert matches({"x": None}, read_conditions({"x": {"not": ("a", "b")}}))
    for wanted in ("a", ("a",), {"min": 0}, {"not": "a", "max": 3}):
        assert not matches(row, read_conditions({"x": wanted}))


def test_a_range_has_both_its_ends_and_reads_the_numbers_of_csv() -> None:
    values = (2.9, 3, 4, 5, 5.1, "3", " 4.5", "5e0", "6", "high", "", True, None, math.nan, [4], Decimal("3.5"))
    assert kept({"min": 3, "max": 5}, *values) == [3, 4, 5, "3", " 4.5", "5e0", Decimal("3.5")]
    assert kept({"min": 5}, *values) == [5, 5.1, "5e0", "6"]
    assert kept({"max": 3, "not": 3}, *values) == [2.9]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"x": {"mn": 3}}, "unknown key `ingest.where.x.mn` — did you mean `min`"),
        ({"meta": {"field": "a"}}, "unknown key `ingest.where.meta.field` .*`meta.field: …`"),
        ({"x": {"min": 3, "max": 2}}, "`ingest.where.x` has the min 3 above the max 2"),
        ({"x": {"min": "3"}}, "`ingest.where.x.min` is '3' — write a number"),
        ({"x": {"max": [1, 2]}}, r"`ingest.where.x.max` is \(1, 2\) — write a number"),
        ({"x": []}, "`ingest.where.x` names no value"),
        ({"x": {}}, "`ingest.where.x` names no value"),
        ({"x": [None]}, r"`ingest.where.x\[0\]` is None"),
        ({"x": {"in": {"a": 1}}}, "`ingest.where.x.in` is {'a': 1}, not a list"),
    ],
)
def test_a_wrong_condition_is_refused_by_its_place(where: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(IngestConfig, {"sources": ["demo"], "where": where}, "ingest")


def test_read_pairs_takes_the_same_conditions() -> None:
    rows = [{**row, "score": i} for i, row in enumerate(text_rows(6))]
    pairs = list(read_pairs(rows, where={"score": {"min": 2, "max": 4, "not": 3}}))
    assert [pair.prompt for pair in pairs] == ["Question 2?", "Question 4?"]
