"""Nested mappings as one level, with dotted keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(values: Any, with_lists: bool = False, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping: `{"a": {"b": 1}}` becomes `{"a.b": 1}`.

    Args:
        values: A mapping. An empty one inside it counts as a value.
        with_lists: Flatten lists as well, with the places of their items as keys.
        prefix: What every key begins with.
    """
    is_nested = isinstance(values, Mapping) or (with_lists and isinstance(values, list))
    if not is_nested or (prefix and not values):
        return {prefix: values}

    flat: dict[str, Any] = {}
    for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
        flat |= flatten(value, with_lists, f"{prefix}.{key}" if prefix else str(key))
    return flat
