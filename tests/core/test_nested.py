"""Nested mappings become one level."""

from __future__ import annotations

from tasks.core.nested import flatten

NESTED = {"a": {"b": [1, {"c": 2}]}, "d": None, "e": {}}


def test_keys_are_dotted_and_empty_mappings_are_values() -> None:
    assert flatten(NESTED) == {"a.b": [1, {"c": 2}], "d": None, "e": {}}
    assert flatten({}) == {}


def test_lists_are_flattened_where_that_is_asked_for() -> None:
    assert flatten(NESTED, with_lists=True) == {"a.b.0": 1, "a.b.1.c": 2, "d": None, "e": {}}
