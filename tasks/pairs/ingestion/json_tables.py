"""JSON objects that hold a table otherwise than as a list of rows: by column, or by the rows' names.

`Dataset.to_dict` gives a list for each column; `DataFrame.to_json` gives an object for each column, an object for each
row, or the cells apart from the names of the columns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

# A column or a row has a name of its own; these are the keys of a message or of a part of one.
_MESSAGE_KEYS = {"role", "from", "content", "value", "text", "messages", "type", "parts"}


def table_rows(value: dict[str, Any], row_keys: Collection[str]) -> tuple[list[Any], str] | None:
    """Return the rows of an object that holds a table, and what the object is; None for others.

    Args:
        value: A JSON document.
        row_keys: Names of columns that tell a row.
    """
    if not value:
        return None
    if value.keys() == {"schema", "data"} and isinstance(value["data"], list):
        return value["data"], "the rows in the list `data`"
    if {"columns", "data"} <= value.keys() <= {"columns", "data", "index"}:
        return _by_cells(value["columns"], value["data"])
    items, is_named = list(value.values()), not value.keys().isdisjoint(row_keys)
    if is_named and all(isinstance(item, list) for item in items):
        return _by_column(value)
    if not all(isinstance(item, dict) for item in items):
        return None
    shared = set(items[0]).intersection(*items)
    if is_named and shared.isdisjoint({*_MESSAGE_KEYS, *row_keys}) and all(set(item) == shared for item in items):
        rows = [{name: item[key] for name, item in value.items()} for key in items[0]]
        return (rows, "an object for each column") if _has_texts(item.values() for item in items) else None
    # two objects with one such key can be two halves of a row
    is_rows = not is_named and len(items) > 1 and len(items) * len(shared.intersection(row_keys)) > 2
    return (items, "an object of rows by name") if is_rows else None


def _by_column(columns: dict[str, list[Any]]) -> tuple[list[Any], str] | None:
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1 or lengths == {0} or not _has_texts(columns.values()):
        return None
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return rows, "a list for each column"


def _by_cells(names: Any, data: Any) -> tuple[list[Any], str] | None:
    if not isinstance(names, list) or not isinstance(data, list) or not data:
        return None
    if not all(isinstance(cells, list) and len(cells) == len(names) for cells in data):
        return None
    return [dict(zip(map(str, names), cells, strict=True)) for cells in data], "cells apart from the columns' names"


def _has_texts(columns: Iterable[Iterable[Any]]) -> bool:
    """Tell whether two columns or more hold texts or lists alone: a row has no two such lists of one length."""
    return sum(all(isinstance(cell, str | list | None) for cell in column) for column in columns) > 1
