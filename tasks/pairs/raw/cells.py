"""The values of a row's columns: texts, numbers, JSON text, and the error that says what is wrong with one."""

from __future__ import annotations

import ast
import json
import math
import re
from decimal import Decimal
from numbers import Real
from typing import Any

from tasks.core.files import canonical_json
from tasks.pairs.record.pair import ABSENT, Columns, get_field

NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
SMALLEST_WEIGHT, LARGEST_WEIGHT = 2.0**-126, 2.0**127 * (2 - 2.0**-23)  # normal float32, which training works with


class Refused(Exception):
    """The one reason why a row holds no pair."""

    def __init__(self, reason: str, detail: str, column: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.column = reason, detail, column


def need(row: dict[str, Any], column: str) -> Any:
    """Return a column that rows must have."""
    value = get_field(row, column)
    if value is ABSENT:
        raise Refused("missing_column", f"no column `{column}`", column)
    return value


def text_of(value: Any, name: str) -> str:
    """Return ``value`` if it is text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise Refused("not_text", f"`{name}` is {kind(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Refused("not_text", f"`{name}` holds half of a surrogate pair") from None
    return value


def json_text(value: dict[str, Any], name: str) -> str:
    """Return an object as canonical JSON that UTF-8 can hold."""
    try:
        return text_of(canonical_json(value), name)
    except (ValueError, TypeError):  # NaN and infinity; times and bytes of tables
        raise Refused("not_text", f"`{name}` holds a value that JSON does not have, such as NaN or a time") from None


def is_blank(value: Any) -> bool:
    """Tell whether a cell holds nothing: no column, null, NaN, white space, or an empty list or object."""
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}", "null", "None", "nan")
    return value is ABSENT or value is None or value in ([], {}, ()) or (isinstance(value, float) and math.isnan(value))


def json_value(value: Any) -> Any:
    """Return what a text holds in the notation of JSON or Python; other values, and texts in neither, as they are."""
    if not isinstance(value, str):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return value


def read_slice(row: dict[str, Any], columns: Columns) -> str | None:
    """Return the group that the row belongs to; None for none."""
    value = optional(row, columns.slice, Columns.slice)
    if value is None or isinstance(value, str):
        return None if value is None else text_of(value, columns.slice)
    if isinstance(value, float) and math.isnan(value):
        return None  # what pandas writes where there is nothing
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return canonical_json(value)
    more = f"; `ingest.columns` can name an item, as {columns.slice}.0" if isinstance(value, list) else ""
    raise Refused("not_text", f"`{columns.slice}` is {kind(value)}{more}")


def read_weight(row: dict[str, Any], columns: Columns) -> float:
    """Return how much the row counts; 1 where it does not say."""
    value = read_number(row, columns.weight, Columns.weight, "bad_weight", absent=1.0)
    if value < SMALLEST_WEIGHT:
        detail = f"`{columns.weight}` is {value}, and a weight is above 0: a row that should not count is left out"
        raise Refused("bad_weight", detail)
    return value


def read_number(row: dict[str, Any], column: str | None, usual: str | None, reason: str, absent: float) -> float:
    """Return a column's number, which CSV spells as text; ``absent`` where there is none."""
    value = None if column is None else optional(row, column, usual)
    if value is None or value == "":
        return absent
    if isinstance(value, str) and NUMBER.fullmatch(value):
        value = float(value.strip())  # float takes fewer spaces than a pattern: not U+001D
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        is_nan = isinstance(value, str) and value.strip().lower() == "nan"
        raise Refused(reason, f"`{column}` is {kind(value)}, and no number{_where_nothing_is(usual) if is_nan else ''}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) <= LARGEST_WEIGHT:  # NaN is refused too
        advice = _where_nothing_is(usual) if math.isnan(number) else ""
        raise Refused(reason, f"`{column}` is {short(value)}, and no finite number of 32 bits{advice}")
    return number


def _where_nothing_is(column: str | None) -> str:
    """Say what to write in place of NaN, which pandas writes where there is nothing."""
    return f": write nothing or null there, or leave the column unread, by `ingest.columns: {{{column}: null}}`"


def optional(row: dict[str, Any], column: str, usual: str | None) -> Any:
    """Return a column that rows may lack, unless it was given another name than the usual one."""
    if column != usual:
        return need(row, column)
    value = get_field(row, column)
    return None if value is ABSENT else value


def kind(value: Any) -> str:
    """Name what a value is, in JSON's words; a number or a constant is shown as it stands."""
    if value is None or isinstance(value, bool | int | float):
        return f"the JSON value {short(value)}"
    names: dict[type, str] = {dict: "an object", list: "a list", str: "text"}
    return names.get(type(value), type(value).__name__)


def short(value: Any) -> str:
    """Show a value in JSON's spelling, cut to 60 characters."""
    text = {"True": "true", "False": "false", "None": "null"}.get(str(value), repr(value))
    return text if len(text) <= 60 else text[:57] + "..."
