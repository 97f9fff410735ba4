"""Rules in annotations: they hold for values from Python, and a refusal names the full key."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import pytest

from tasks.core.errors import ConfigError
from tasks.core.section import Rule, Section, above, at_least, between, filled

Share = Annotated[float, between(0, 1)]


@dataclasses.dataclass(frozen=True)
class Cook(Section, path="kitchen.cook"):
    heat: Annotated[float, above(0, "for example 180")] = 180.0
    eggs: Annotated[int, at_least(1)] | None = 1
    spoons: Annotated[int, at_least(2)] | Literal["auto"] = "auto"
    salt: Share = 0.5
    open_share: Annotated[float, between(0, 1, "()")] = 0.5
    low_share: Annotated[float, between(0, 1, "[)")] = 0.0
    high_share: Annotated[float, between(0, 1, "(]")] = 1.0
    name: Annotated[str, filled("name the dish")] = "soup"
    steps: Annotated[tuple[str, ...], filled("name a step")] = ("stir",)
    mix: str | dict[str, Annotated[float, above(0)]] = "flour"
    notes: tuple[Annotated[str, Rule(str.islower, "write it in small letters")], ...] = ()
    is_hot: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.is_hot or self.heat < 100, "heat", "write less than 100, or `is_hot: true`")


ALLOWED: list[dict[str, Any]] = [
    {},
    {"heat": 1e-9},
    {"eggs": None},
    {"eggs": 1},
    {"spoons": 2},
    {"salt": 0},
    {"salt": 1},
    {"low_share": 0},
    {"high_share": 1},
    {"mix": "rye"},
    {"mix": {"rye": 0.5}},
    {"notes": ("hot", "sweet")},
]


@pytest.mark.parametrize("values", ALLOWED, ids=str)
def test_values_within_the_rules_are_taken(values: dict[str, Any]):
    cook = Cook(**values)
    assert all(getattr(cook, name) == value for name, value in values.items())


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"heat": 0}, "`kitchen.cook.heat` is 0 — write a number above 0, for example 180"),
    ({"heat": float("nan")}, "`kitchen.cook.heat` is nan — write a number above 0, for example 180"),
    ({"eggs": 0}, "`kitchen.cook.eggs` is 0 — write 1 or more"),
    ({"spoons": 1}, "`kitchen.cook.spoons` is 1 — write 2 or more"),
    ({"salt": 1.5}, "`kitchen.cook.salt` is 1.5 — write a number from 0 to 1"),
    ({"open_share": 1}, "`kitchen.cook.open_share` is 1 — write a number above 0 and below 1"),
    ({"open_share": 0}, "`kitchen.cook.open_share` is 0 — write a number above 0 and below 1"),
    ({"low_share": 1}, "`kitchen.cook.low_share` is 1 — write a number from 0 to below 1"),
    ({"high_share": 0}, "`kitchen.cook.high_share` is 0 — write a number above 0, at most 1"),
    ({"name": " "}, "`kitchen.cook.name` is ' ' — name the dish"),
    ({"steps": ()}, "`kitchen.cook.steps` is () — name a step"),
    ({"mix": {"rye": 1, "oats": 0}}, "`kitchen.cook.mix.oats` is 0 — write a number above 0"),
    ({"notes": ("hot", "SWEET")}, "`kitchen.cook.notes[1]` is 'SWEET' — write it in small letters"),
    ({"is_hot": False}, "`kitchen.cook.heat` is 180.0 — write less than 100, or `is_hot: true`"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=lambda part: str(part)[:60])
def test_a_value_outside_is_refused_by_its_full_key(values: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as caught:
        Cook(**values)
    assert str(caught.value) == message


def test_a_copy_with_a_change_is_checked_too():
    with pytest.raises(ConfigError, match=r"`kitchen\.cook\.salt` is 2"):
        dataclasses.replace(Cook(), salt=2)
