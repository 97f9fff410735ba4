"""Every key of params.yaml has a sentence, an owner that refuses wrong values, and a reader."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest

from tasks.core.errors import ConfigError
from tasks.core.params import build, load_params, load_section
from tasks.core.section import Rule, Section
from tasks.launch.recipe import owner_of, read_settings
from tests.rules.source import ROOT, modules, tree_of

MOST_KEYS = 117
PARAMS = ROOT / "params.yaml"
TEXT = PARAMS.read_text(encoding="utf-8")
DOCUMENT = load_params(PARAMS)
SECTIONS = tuple(DOCUMENT)
RECIPES = sorted((ROOT / "infra/recipes").glob("*.yaml"))


def owners(config: type[Any]) -> Iterator[type[Any]]:
    """A config and those of its fields that are configs themselves."""
    yield config
    for hint in typing.get_type_hints(config).values():
        for part in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(part) and isinstance(part, type):
                yield from owners(part)


OWNERS = [owner for section in SECTIONS for owner in owners(owner_of(section))]
SECTION_OWNERS = [owner for owner in OWNERS if issubclass(owner, Section)]


def leaves(values: Mapping[str, Any], owner: type[Any], path: str) -> Iterator[str]:
    """The keys that hold a value; a mapping that is a value, such as `loss` or `columns`, is one key."""
    hints = typing.get_type_hints(owner)
    for key, value in values.items():
        if isinstance(hints[key], type) and issubclass(hints[key], Section):
            yield from leaves(value, hints[key], f"{path}.{key}")
        else:
            yield f"{path}.{key}"


KEYS = [key for section in SECTIONS for key in leaves(DOCUMENT[section], owner_of(section), section)]


def value_at(path: str) -> Any:
    """The value that params.yaml has at a path; of a section, the mapping."""
    value: Any = DOCUMENT
    for key in path.split("."):
        value = value[key]
    return value


def sentences(text: str) -> dict[str, str]:
    """What stands above each key below the top level, by the key's path."""
    found, path, above = {}, [], []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            above.append(line.strip(" #"))
        elif key := re.match(r"^( *)([A-Za-z_][\w.]*):(\s|$)", line):
            path = [*path[: len(key[1]) // 2], key[2]]
            found[".".join(path)], above = " ".join(above), []
        else:
            above = []
    return {path: said for path, said in found.items() if "." in path}


def bare_keys(text: str) -> list[str]:
    """The keys that no sentence stands above."""
    return [path for path, said in sentences(text).items() if not said.endswith((".", "?", ")"))]


def test_there_are_few_enough_keys_to_read() -> None:
    assert len(KEYS) <= MOST_KEYS, "move one into code, with its sentence, or raise the number with a reason"


def test_every_key_has_a_sentence_above_it() -> None:
    assert bare_keys(TEXT) == []
    assert set(KEYS) <= set(sentences(TEXT))


def test_a_key_without_a_sentence_is_found() -> None:
    text = "a:\n  # The one.\n  one: 1\n  two: 2\n  # not a sentence\n  three: [x: y]\n"
    assert bare_keys(text) == ["a.two", "a.three"]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_builds_its_owner(section: str) -> None:
    assert isinstance(load_section(PARAMS, section, owner_of(section)), owner_of(section))


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.__name__)
def test_an_owner_is_frozen(owner: type[Any]) -> None:
    assert owner.__dataclass_params__.frozen, f"{owner.__name__} can be changed after it was checked"


@pytest.mark.parametrize("owner", SECTION_OWNERS, ids=lambda owner: owner.__name__)
def test_params_yaml_shows_every_key_of_an_owner_at_the_owners_path(owner: type[Section]) -> None:
    hidden = {field.name for field in dataclasses.fields(owner)} - set(value_at(owner.PATH))  # type: ignore[arg-type]
    assert hidden == set(), f"params.yaml says nothing of {owner.PATH}: {sorted(hidden)}"


@pytest.mark.parametrize("path", ["ingest.columns", "ingest.expect", "winrate.rules.weights"])
def test_the_sentence_above_a_mapping_names_what_it_may_hold(path: str) -> None:
    from tasks.judges.rules.rules import VERSIONS
    from tasks.pairs.hygiene.expectations import Expectations
    from tasks.pairs.record.pair import Columns

    names = {
        "ingest.columns": [field.name for field in dataclasses.fields(Columns)],
        "ingest.expect": [field.name for field in dataclasses.fields(Expectations)],
        "winrate.rules.weights": VERSIONS,
    }
    assert [name for name in names[path] if f"`{name}`" not in sentences(TEXT)[path]] == []


def rules_of(hint: Any) -> Iterator[Rule]:
    """The rules that a value itself is held to, not its items."""
    if typing.get_origin(hint) is Annotated:
        yield from (part for part in typing.get_args(hint)[1:] if isinstance(part, Rule))
    elif typing.get_origin(hint) not in (tuple, dict):
        for part in typing.get_args(hint):
            yield from rules_of(part)


RULED = [
    (owner, field.name, rule)
    for owner in SECTION_OWNERS
    for field in dataclasses.fields(owner)  # type: ignore[arg-type]
    for rule in rules_of(typing.get_type_hints(owner, include_extras=True)[field.name])
]
OUTSIDE: list[Any] = [-1, 10**9, 0, "", (), " : "]


@pytest.mark.parametrize(("owner", "name", "rule"), RULED, ids=[f"{owner.PATH}.{name}" for owner, name, _ in RULED])
def test_a_value_outside_its_range_is_refused_by_its_full_key(owner: type[Section], name: str, rule: Rule) -> None:
    config = build(owner, value_at(owner.PATH), owner.PATH)
    kind = type(getattr(config, name))
    kind = int if kind is type(None) else kind  # max_prompts and limit, null here
    kind = int if (owner.PATH, name) == ("runtime", "tokens_per_micro_batch") else kind  # `auto` here
    wrong = next(kind(value) for value in OUTSIDE if _is(value, kind) and not rule.is_kept(kind(value)))
    with pytest.raises(ConfigError, match=rf"^`{re.escape(f'{owner.PATH}.{name}')}` is ") as caught:
        dataclasses.replace(config, **{name: wrong})  # type: ignore[type-var]
    assert caught.value.todo


def _is(value: Any, kind: type[Any]) -> bool:
    return isinstance(value, int) if kind in (int, float) else isinstance(value, kind)


REMOVED = [(owner, key) for owner in SECTION_OWNERS for key in owner.REMOVED]


@pytest.mark.parametrize(("owner", "key"), REMOVED, ids=[f"{owner.PATH}.{key}" for owner, key in REMOVED])
def test_a_removed_key_is_refused_with_what_to_do(owner: type[Section], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^`{owner.PATH}\.{key}` is no longer a key — (delete|write) ") as caught:
        build(owner, {**value_at(owner.PATH), key: 1}, owner.PATH)
    assert "\n" not in str(caught.value)
    assert key not in {field.name for field in dataclasses.fields(owner)}  # type: ignore[arg-type]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_holds_only_what_differs(path: Path) -> None:
    settings = list(read_settings(path.read_text(encoding="utf-8"), path.name))
    assert {setting.path for setting in settings} <= set(KEYS)
    assert [setting.path for setting in settings if setting.value == value_at(setting.path)] == []
    assert [setting.path for setting in settings] == [
        key for key in KEYS if key in {setting.path for setting in settings}
    ], "in the order of params.yaml"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_read_somewhere(section: str) -> None:
    read = _attributes_read()
    unread = [
        f"{config.__name__}.{field.name}"
        for config in owners(owner_of(section))
        for field in dataclasses.fields(config)
        if field.name not in read and not _is_taken_whole(config)
    ]
    assert unread == []


def _attributes_read() -> set[str]:
    """The attributes that code reads, checks of a value in its own class left out."""
    found: set[str] = set()
    for path in modules("tasks"):
        checks = {
            inner
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.FunctionDef) and node.name == "__post_init__"
            for inner in ast.walk(node)
        }
        found |= {
            node.attr
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node not in checks
        }
    return found


def _is_taken_whole(config: type[Any]) -> bool:
    """Tell whether the module of a config takes it apart with `asdict` or `fields`."""
    text = Path(str(importlib.import_module(config.__module__).__file__)).read_text(encoding="utf-8")
    return "asdict(" in text or "fields(" in text
