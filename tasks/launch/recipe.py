"""Write a params.yaml from a recipe, which holds only what differs.

run as: python -m tasks.launch.recipe --list
        python -m tasks.launch.recipe NAME_OR_PATH [--force]

A recipe is a YAML file with some keys of params.yaml. Its values replace those of the params.yaml at hand. A comment
above a key of the recipe replaces the one there. All other lines stay as they are.

Exit status: 0 written, 1 refused.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib
import sys
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks.core import paths
from tasks.core.errors import ConfigError
from tasks.core.files import write_text
from tasks.core.nested import flatten
from tasks.core.params import build, parse_params
from tasks.core.runtime import RuntimeConfig
from tasks.core.section import Section, show
from tasks.launch.params_text import places_of, with_value
from tasks.telemetry.git_calls import git
from tasks.telemetry.one_line import exit_status

RECIPES = Path("infra/recipes")


@dataclasses.dataclass(frozen=True)
class Setting:
    """A key that a recipe sets: its path, its value as the recipe writes it, and the comment lines above it there."""

    path: str
    value: Any
    comment: tuple[str, ...]


def main(arguments: list[str] | None = None) -> int:
    """List the recipes, or write params.yaml from one; an error becomes one line."""
    parser = argparse.ArgumentParser(prog="python -m tasks.launch.recipe", description="params.yaml from a recipe.")
    parser.add_argument("recipe", nargs="?", metavar="NAME_OR_PATH", help=f"a name of {RECIPES}, or a file")
    parser.add_argument("--list", action="store_true", help="list the recipes")
    parser.add_argument("--force", action="store_true", help="write even if params.yaml has uncommitted changes")
    words = parser.parse_args(arguments)
    if bool(words.recipe) == words.list:
        parser.error("give the name of a recipe, or --list")

    return exit_status("recipe", _list if words.list else lambda: _write(find_recipe(words.recipe), words.force))


def _list() -> int:
    for path in sorted(RECIPES.glob("*.yaml")):
        print(f"{path.stem}: {path.read_text(encoding='utf-8').splitlines()[0].strip('# ')}")
    return 0


def _write(recipe: Path, is_forced: bool) -> int:
    """Write params.yaml and print what changed."""
    if not paths.PARAMS.is_file():
        raise ConfigError(f"{paths.PARAMS} is missing", "run from the checkout's root, or `git checkout params.yaml`")
    if not is_forced:
        refuse_uncommitted(paths.PARAMS)
    before = paths.PARAMS.read_text(encoding="utf-8")
    after = whole_params(before, recipe.read_text(encoding="utf-8"), str(recipe))
    write_text(paths.PARAMS, after)

    old, new = (flatten(parse_params(text, str(paths.PARAMS))) for text in (before, after))
    changes = [f"  {key}: {show(old.get(key))} -> {show(new[key])}" for key in new if new[key] != old.get(key)]
    print("\n".join([f"{paths.PARAMS}: {len(changes)} keys changed by {recipe}", *changes]))
    return 0


def find_recipe(name: str) -> Path:
    """Return the file of a recipe, which is named by its file in `infra/recipes/` or by a path.

    Raises:
        ConfigError: There is no such recipe.
    """
    path = RECIPES / f"{name}.yaml"
    if path.is_file():
        return path
    if Path(name).is_file():
        return Path(name)
    known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    raise ConfigError(f"there is no recipe {name}", f"give a file, or one of: {known}")


def refuse_uncommitted(params: Path) -> None:
    """Refuse to go on if git could not bring the params file back.

    Raises:
        ConfigError: The file has uncommitted changes, or git does not say whether it has.
    """
    try:
        changes = git(Path(), "status", "--porcelain", "--", str(params), timeout_s=60)
    except ConfigError as error:
        raise ConfigError(f"git does not say whether {params} is committed ({error.what})", "add --force") from None
    if changes:
        raise ConfigError(f"{params} has uncommitted changes", "commit them, or add --force to write over them")


def whole_params(text: str, recipe: str, name: str) -> str:
    """Return the text of a params file with the values and comments of a recipe.

    Args:
        text: The params file.
        recipe: The recipe.
        name: What the recipe is called in messages.

    Raises:
        ConfigError: The recipe is malformed, names an unknown key or a wrong value, or the file has no line for a key.
    """
    settings = list(read_settings(recipe, name))
    document = parse_params(text, str(paths.PARAMS))
    plain = parse_params(recipe, name)
    for setting in settings:
        _set(document, setting.path, _get(plain, setting.path))
    for section in plain:
        build(owner_of(section), document[section], section)

    for setting in settings:
        text = with_value(text, setting.path, setting.value, setting.comment)
    if parse_params(text, str(paths.PARAMS)) != document:
        raise ConfigError(f"{paths.PARAMS} is laid out in another way than the repository's", "write one key a line")
    return text


def read_settings(recipe: str, name: str) -> Iterator[Setting]:
    """Yield what a recipe sets, in its order.

    Raises:
        ConfigError: It is no YAML mapping of sections, or a section is unknown.
    """
    reader = YAML()
    reader.preserve_quotes = True
    parse_params(recipe, name)  # refuses what is malformed
    try:
        document = reader.load(recipe)
    except YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {error}", "correct that line") from None
    lines = recipe.splitlines()
    places = places_of(lines)

    for section, values in document.items():
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"`{section}` of {name} is {show(values)}, not a mapping of keys", "write key: value lines"
            )
        for path, value in _leaves(values, owner_of(section), section):
            place = places.get(path)
            comment = tuple(line.strip() for line in lines[place.comment : place.key]) if place else ()
            yield Setting(path, value, comment)


def owner_of(section: str) -> type[Any]:
    """Return the dataclass of a section: `<Stage>Config` of the stage's module, and RuntimeConfig for `runtime`.

    Raises:
        ConfigError: There is no such section.
    """
    if section == "runtime":
        return RuntimeConfig
    try:
        owner: type[Any] = getattr(importlib.import_module(f"tasks.{section}"), f"{section.title()}Config")
    except (ModuleNotFoundError, AttributeError):
        stages = [path.stem for path in Path(__file__).parents[1].glob("*.py") if path.stem != "__init__"]
        near = difflib.get_close_matches(section, [*stages, "runtime"], n=1)
        advice = f"did you mean `{near[0]}`?" if near else f"known sections: {', '.join(sorted(stages))}, runtime"
        raise ConfigError(f"unknown section `{section}`", advice) from None
    return owner


def _leaves(values: Mapping[str, Any], owner: type[Any], path: str) -> Iterator[tuple[str, Any]]:
    """Yield the keys below ``path`` with their values; a mapping that is a value, such as `loss`, is not entered."""
    hints = typing.get_type_hints(owner)
    for key, value in values.items():
        hint = hints.get(key)
        if isinstance(value, Mapping) and isinstance(hint, type) and issubclass(hint, Section):
            yield from _leaves(value, hint, f"{path}.{key}")
        else:
            yield f"{path}.{key}", value


def _get(document: Mapping[str, Any], path: str) -> Any:
    value: Any = document
    for key in path.split("."):
        value = value[key]
    return value


def _set(document: dict[str, Any], path: str, value: Any) -> None:
    *outer, last = path.split(".")
    for key in outer:
        document = document.setdefault(key, {})
    document[last] = value


if __name__ == "__main__":
    sys.exit(main())
