"""params.yaml sections, read into the frozen dataclass that owns them.

An unknown key, a removed one, a missing one, a wrong type or a value out of range is refused by name, with
a line of advice. The file is read as YAML 1.2, as DVC reads it (``1e-4`` is a number, ``no`` is text).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from tasks.core.errors import ConfigError
from tasks.core.section import Section, show

T = TypeVar("T")
_EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")  # YAML 1.1 readers take 1e-5 as text, and quote it


def load_section(path: Path, section: str, owner: type[T]) -> T:
    """Read ``section`` of a params file into ``owner``, a frozen dataclass.

    Raises:
        ConfigError: The file or section is missing or malformed, or a key or value is wrong.
    """
    document = load_params(path)
    if section not in document:
        raise ConfigError(f"{path} has no section `{section}`", "copy it from the repository's params.yaml")
    return build(owner, document[section], section)


def load_params(path: Path) -> dict[str, Any]:
    """Read a whole params file into plain dicts and lists.

    Raises:
        ConfigError: The file is missing or is not a YAML mapping.
    """
    try:
        return parse_params(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing", "run from the checkout's root, or copy a recipe there") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}", "correct that line") from None


def parse_params(text: str, name: str) -> dict[str, Any]:
    """Read the text of a params file, whose ``name`` is for messages.

    Raises:
        ConfigError: It is not a YAML mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        document = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {error}", "correct that line") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{name} is not a mapping of sections", "copy the repository's params.yaml")
    return document


def build(owner: type[T], values: Any, where: str) -> T:
    """Build the dataclass ``owner`` from a mapping, checking keys and types; ``where`` is its name.

    Raises:
        ConfigError: A key or value is wrong; the message names it as ``where.key``.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"`{where}` is {show(values)}, not a mapping of keys", "see params.yaml for its keys")
    fields = {field.name: field for field in dataclasses.fields(owner)}  # type: ignore[arg-type]
    for key in values:
        if issubclass(owner, Section) and key in owner.REMOVED:
            raise ConfigError(f"`{where}.{key}` is no longer a key", owner.REMOVED[key])
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            advice = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(sorted(fields))}"
            raise ConfigError(f"unknown key `{where}.{key}`", advice)
    missing = [name for name, field in fields.items() if name not in values and _is_required(field)]
    if missing:
        raise ConfigError(f"`{where}.{missing[0]}` is missing", "add it; params.yaml says what it means")
    hints = typing.get_type_hints(owner)  # bare: the owner checks the rules itself, for values from Python too
    return owner(**{key: _coerce(value, hints[key], f"{where}.{key}") for key, value in values.items()})


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """Return ``value`` as the type ``hint``; only int (or text like 1e-5) to float and list to tuple are converted."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _coerce_union(value, get_args(hint), where)
    if origin is Literal:
        choices = get_args(hint)
        if value not in choices:
            raise ConfigError(f"`{where}` is {show(value)}", f"choose one of: {', '.join(map(str, choices))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"`{where}` is {show(value)}, not a list", "write it as a YAML list")
        return tuple(_coerce(item, get_args(hint)[0], f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"`{where}` is {show(value)}, not a mapping", "write it as key: value lines")
        return {str(key): _coerce(item, get_args(hint)[1], f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)

    return value if hint is Any else _coerce_scalar(value, hint, where)


def _coerce_union(value: Any, options: tuple[Any, ...], where: str) -> Any:
    """Return ``value`` as the first option that takes it; a refused scalar is told what every option wants."""
    if value is None and type(None) in options:
        return None
    options = _of_kind(value, options, where)
    errors: list[ConfigError] = []
    if isinstance(value, list | dict):
        options = tuple(option for option in options if _is_shaped(value, option)) or options
    for option in options:
        if option is not type(None):
            try:
                return _coerce(value, option, where)
            except ConfigError as error:
                errors.append(error)
    if len(errors) == 1 or isinstance(value, list | dict):
        raise errors[-1]
    raise ConfigError(f"`{where}` is {show(value)}", ", or ".join(error.todo for error in errors))


def _of_kind(value: Any, options: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    """Of a union of dataclasses that differ in the literal of their field `kind`, return the one that is named.

    Raises:
        ConfigError: The value is no mapping with a `kind`, or none has that kind.
    """
    by_kind = {
        kind: option
        for option in options
        if dataclasses.is_dataclass(option)
        for kind in get_args(typing.get_type_hints(option).get("kind"))
    }
    if not by_kind:
        return options
    known = ", ".join(by_kind)
    if not isinstance(value, dict) or "kind" not in value:
        raise ConfigError(f"`{where}` is {show(value)}", f"write a mapping with a `kind`, one of: {known}")
    if value["kind"] not in by_kind:
        raise ConfigError(f"`{where}.kind` is {show(value['kind'])}", f"choose one of: {known}")
    return (by_kind[value["kind"]],)


def _is_shaped(value: Any, option: Any) -> bool:
    """Tell whether an option is a list or a mapping as the value is."""
    if isinstance(value, list):
        return get_origin(option) is tuple
    return get_origin(option) is dict or dataclasses.is_dataclass(option)


def _coerce_scalar(value: Any, hint: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str) and _EXPONENT.fullmatch(value):
        value = float(value)
    is_right = isinstance(value, hint) and not (hint in (int, float) and isinstance(value, bool))
    if not is_right:
        names = {int: "a whole number", float: "a number", str: "text (quote it)", bool: "true or false"}
        raise ConfigError(f"`{where}` is {show(value)}", f"write {names.get(hint, hint.__name__)}")
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"`{where}` is {value}, which is no finite number", "write a number")
    return value
