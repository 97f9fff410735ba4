"""Which rows of a source count: conditions on their fields, as `where` in params writes them.

A field has a value (`lang: en`), one of several (`lang: [en, de]`, or `{in: [en, de]}`), another one than some
(`{not: x}`), or a number in a range whose ends belong to it (`{min: 3, max: 5}`). A text that spells a number, true or
false counts as that value beside one, for CSV holds texts alone.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

from tasks.core.errors import ConfigError
from tasks.core.section import show
from tasks.pairs.raw.cells import NUMBER
from tasks.pairs.record.pair import ABSENT, get_field

Scalar = str | int | float | bool
Values = Scalar | tuple[Scalar, ...]
Wanted = Values | dict[str, Values]  # what stands behind a field in params

_KEYS = ("in", "not", "min", "max")


@dataclasses.dataclass(frozen=True)
class Condition:
    """What a field's value must be; all that is said must hold.

    Attributes:
        accepted: The values of which it must be one; None for any.
        refused: The values that it must not be.
        low: The least number; None for no least one.
        high: The greatest number; None for no greatest one.
    """

    accepted: tuple[Scalar, ...] | None = None
    refused: tuple[Scalar, ...] = ()
    low: float | None = None
    high: float | None = None

    def holds(self, value: Any) -> bool:
        """Tell whether a field's value counts; a field without one is only not what is refused."""
        if value is ABSENT or value is None:
            return self.accepted is None and self.low is None and self.high is None
        if self.accepted is not None and not any(_are_equal(value, wanted) for wanted in self.accepted):
            return False
        if any(_are_equal(value, other) for other in self.refused):
            return False
        return (self.low is None and self.high is None) or self._is_in_range(_value_of(value))

    def _is_in_range(self, number: Any) -> bool:
        is_number = isinstance(number, Real | Decimal) and not isinstance(number, bool)
        low, high = -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high
        return is_number and bool(low <= number <= high)  # which NaN is not


Conditions = Mapping[str, Condition]


def read_conditions(where: Mapping[str, Wanted], place: str = "ingest.where") -> dict[str, Condition]:
    """Return the condition on each field that a mapping of params names; ``place`` is the mapping's key.

    Raises:
        ConfigError: An unknown key, no value at all, or a range that is none.
    """
    return {name: _condition(wanted, name, f"{place}.{name}") for name, wanted in where.items()}


def _condition(wanted: Wanted, name: str, place: str) -> Condition:
    said = wanted if isinstance(wanted, dict) else {"in": wanted}
    for key in said:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            advice = f"known keys: {', '.join(_KEYS)}; a field inside an object is `{name}.{key}: …`"
            raise ConfigError(f"unknown key `{place}.{key}`", f"did you mean `{near[0]}`?" if near else advice)
    values = {key: value if isinstance(value, tuple) else (value,) for key, value in said.items()}
    if not values or not all(values.values()):
        raise ConfigError(f"`{place}` names no value", f"write a value, a list of them, or {', '.join(_KEYS)}")

    for key in ("min", "max"):
        limit = said.get(key, 0)
        if isinstance(limit, bool) or not isinstance(limit, int | float):
            raise ConfigError(f"`{place}.{key}` is {show(limit)}", "write a number")
    low, high = (values.get(key, (None,))[0] for key in ("min", "max"))
    if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
        raise ConfigError(f"`{place}` has the min {low} above the max {high}", "write the smaller one as min")
    return Condition(values.get("in"), values.get("not", ()), low, high)  # type: ignore[arg-type]


def matches(row: dict[str, Any], conditions: Conditions) -> bool:
    """Tell whether every condition holds for a row."""
    return all(condition.holds(get_field(row, name)) for name, condition in conditions.items())


def _are_equal(value: Any, wanted: Scalar) -> bool:
    """Tell whether a cell has the value asked for; true is not 1, and a text spells a value only beside no text."""
    if isinstance(value, str) != isinstance(wanted, str):
        value, wanted = _value_of(value), _value_of(wanted)
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)


def _value_of(value: Any) -> Any:
    """Return the number, true or false that a text spells; other values as they are."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if not NUMBER.fullmatch(text):
        return value
    return int(text) if text.lstrip("+-").isdecimal() and len(text) < 400 else float(text)
