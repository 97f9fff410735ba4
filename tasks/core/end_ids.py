"""The ids at which a model stops, as configs spell them: a number, a number as text, a list with gaps, or nothing."""

from __future__ import annotations

from typing import Any


def end_ids(value: Any) -> list[int]:
    """Return the ids that ``eos_token_id`` of a config stands for; nulls stand for none.

    Raises:
        ValueError: Something in it is no id.
    """
    ids = []
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, bool) or not isinstance(one, int | str | None):
            raise ValueError(f"{one!r} is no id of a token")
        if one is not None:
            ids.append(int(one))
    return ids
