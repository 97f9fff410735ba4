"""The ids at which a base stops generating, as generation_config.json and config.json give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def end_ids(generation: Mapping[str, Any], config: Mapping[str, Any]) -> list[int]:
    """Return the ids of `eos_token_id`: generation_config.json's, or config.json's where the former has none.

    An id may stand as text of digits, and a null in a list is no id.

    Args:
        generation: The object in generation_config.json; empty without such a file.
        config: The object in config.json; a model of more than text may have the ids in its `text_config`.

    Raises:
        ValueError: A value is no id.
    """
    text = config.get("text_config")
    for settings in (generation, config, text if isinstance(text, Mapping) else {}):
        value = settings.get("eos_token_id")
        values = value if isinstance(value, list) else [value]
        if ids := [_as_id(each) for each in values if each is not None]:
            return ids
    return []


def _as_id(value: Any) -> int:
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"its `eos_token_id` has {value!r}, which is no token id")
