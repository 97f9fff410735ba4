"""Owners of params: a key's range stands in its annotation, once, and holds for params.yaml and Python alike.

An owner is a frozen dataclass, such as `class ObjectiveConfig(Section, path="train.objective")`. With the field
`beta: Annotated[float, above(0)]` it refuses a 0 by "`train.objective.beta` is 0 — write a number above 0".
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from tasks.core.errors import ConfigError

_UNSET = object()


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value must keep to, and what to write instead where it does not."""

    is_kept: Callable[[Any], bool]
    advice: str


def above(low: float, note: str = "") -> Rule:
    """Allow numbers above ``low``; ``note`` is added to the advice."""
    return Rule(lambda value: value > low, _advice(f"a number above {low}", note))


def at_least(low: float, note: str = "") -> Rule:
    """Allow ``low`` and more; ``note`` is added to the advice."""
    return Rule(lambda value: value >= low, _advice(f"{low} or more", note))


def between(low: float, high: float, ends: Literal["[]", "[)", "(]", "()"] = "[]", note: str = "") -> Rule:
    """Allow the interval from ``low`` to ``high``; a round bracket in ``ends`` leaves that end out."""
    text = {
        "[]": f"a number from {low} to {high}",
        "[)": f"a number from {low} to below {high}",
        "(]": f"a number above {low}, at most {high}",
        "()": f"a number above {low} and below {high}",
    }[ends]

    def is_kept(value: float) -> bool:
        is_over = value >= low if ends[0] == "[" else value > low
        return is_over and (value <= high if ends[1] == "]" else value < high)

    return Rule(is_kept, _advice(text, note))


def band(low: float, note: str = "") -> Rule:
    """Allow lists of two numbers, the lower one first, neither below ``low``."""
    advice = _advice(f"two numbers, the lower one first and not below {low}", note)
    return Rule(lambda pair: len(pair) == 2 and low <= pair[0] <= pair[1], advice)


def filled(advice: str) -> Rule:
    """Allow text and lists that are not empty; ``advice`` says what to write."""
    return Rule(lambda value: bool(value.strip() if isinstance(value, str) else value), advice)


class Section:
    """The base of a frozen dataclass that owns a section of params.yaml, or a mapping inside one.

    Attributes:
        PATH: Where the section stands in params.yaml, as `train.objective`; messages name keys by it.
        REMOVED: Keys that earlier versions had, and what to do about each.
    """

    PATH: ClassVar[str]
    REMOVED: ClassVar[Mapping[str, str]] = types.MappingProxyType({})

    def __init_subclass__(cls, path: str) -> None:
        """Take the section's path from the class statement."""
        super().__init_subclass__()
        cls.PATH = path

    def __post_init__(self) -> None:
        """Check every field against the rules of its annotation; subclasses add checks of combinations.

        Raises:
            ConfigError: A value breaks a rule; the message names it by its full key.
        """
        owner: Any = type(self)
        for name, hint in _ruled_hints(owner).items():
            _check(getattr(self, name), hint, f"{self.PATH}.{name}")

    def require(self, is_valid: bool, name: str, advice: str, value: object = _UNSET) -> None:
        """Refuse the value of the key ``name`` (or ``value``, shown in its place) unless ``is_valid``.

        Raises:
            ConfigError: Naming the key, the value and the advice.
        """
        if not is_valid:
            shown = getattr(self, name) if value is _UNSET else value
            raise ConfigError(f"`{self.PATH}.{name}` is {show(shown)}", advice)


def show(value: object) -> str:
    """Return a value as messages show it, shortened to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _advice(text: str, note: str) -> str:
    return f"write {text}" + (f", {note}" if note else "")


@functools.cache
def _ruled_hints(owner: type[Any]) -> dict[str, Any]:
    """Return the type hints of the fields that have a rule somewhere."""
    hints = typing.get_type_hints(owner, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(owner) if _has_rule(hints[field.name])}


def _has_rule(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return True
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return not issubclass(hint, Section) and bool(_ruled_hints(hint))
    return any(_has_rule(part) for part in get_args(hint))


def _check(value: Any, hint: Any, key: str) -> None:
    """Check ``value`` against the rules in ``hint``: of it, of a list's items, of a mapping's values and fields."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        for rule in parts[1:]:
            if isinstance(rule, Rule) and not rule.is_kept(value):
                raise ConfigError(f"`{key}` is {show(value)}", rule.advice)
        _check(value, parts[0], key)
    elif origin in (Union, types.UnionType):
        for part in parts:
            if _is_of(value, part):
                _check(value, part, key)
    elif origin is tuple:
        for index, item in enumerate(value):
            _check(item, parts[0], f"{key}[{index}]")
    elif origin is dict:
        for name, item in value.items():
            _check(item, parts[1], f"{key}.{name}")
    elif dataclasses.is_dataclass(value) and not isinstance(value, Section):
        owner: Any = type(value)
        for name, inner in _ruled_hints(owner).items():
            _check(getattr(value, name), inner, f"{key}.{name}")


def _is_of(value: object, hint: Any) -> bool:
    """Tell whether a value of a union is meant by this option."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    kind = get_origin(hint) or hint
    return isinstance(value, (int, float) if kind is float else kind)
