"""Every key of params.yaml has a sentence above it, a typed owner that refuses the rest, and a reader."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.core.params import load_params, load_section
from tasks.core.runtime import RuntimeConfig
from tests.rules import source
from tests.rules.source import ROOT, modules, tree_of

FILES = [ROOT / "params.yaml", *sorted((ROOT / "infra" / "recipes").glob("*.yaml"))]
SECTIONS = (*source.SECTIONS, "runtime")


def owner(section: str) -> type[Any]:
    """The dataclass of a section: `<Stage>Config` in the stage's module; RuntimeConfig for `runtime`."""
    if section == "runtime":
        return RuntimeConfig
    found: type[Any] = getattr(importlib.import_module(f"tasks.{section}"), f"{section.title()}Config")
    return found


def owners(config: type[Any]) -> Iterator[type[Any]]:
    """A config and those of its fields that are configs themselves."""
    yield config
    for hint in typing.get_type_hints(config).values():
        for part in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(part) and isinstance(part, type):
                yield from owners(part)


def uncommented_keys(text: str) -> list[str]:
    """The keys below the top level that no sentence stands above."""
    lines = text.splitlines()
    bare = []
    for number, line in enumerate(lines):
        if not (found := re.match(r"^\s+([A-Za-z_][\w.]*):(\s|$)", line)) or line.lstrip().startswith("#"):
            continue
        above = []
        for earlier in reversed(lines[:number]):
            if not earlier.lstrip().startswith("#"):
                break
            above.insert(0, earlier.strip(" #"))
        if not above or not above[-1].endswith((".", "?", ")")):
            bare.append(f"line {number + 1}: {found[1]}")
    return bare


def sentences(text: str) -> dict[str, str]:
    """What stands above each key, by the key's path."""
    found, path, above = {}, [], []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            above.append(line.strip(" #"))
        elif key := re.match(r"^( *)([A-Za-z_][\w.]*):(\s|$)", line):
            path = [*path[: len(key[1]) // 2], key[2]]
            found[".".join(path)], above = " ".join(above), []
        else:
            above = []
    return found


@pytest.mark.parametrize("path", FILES[1:], ids=lambda path: path.name)
def test_a_recipe_has_the_keys_of_params_yaml_and_says_the_same_of_them(path: Path) -> None:
    ours = {key: said for key, said in sentences(FILES[0].read_text()).items() if not key.startswith("base.demo")}
    its = sentences(path.read_text())
    assert list(its) == list(ours)
    # the file's head, and what its own rules ask for
    own_words = {"base", "winrate.rules.required_groups", "winrate.rules.forbidden_phrases"}
    assert {key for key in ours if its[key] != ours[key]} <= own_words


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_params_file_has_every_section_and_no_other(path: Path) -> None:
    assert set(load_params(path)) == set(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_section_builds_its_owner(path: Path, section: str) -> None:
    config = load_section(path, section, owner(section))
    assert isinstance(config, owner(section))


@pytest.mark.parametrize("section", SECTIONS)
def test_an_owner_is_frozen_and_params_yaml_shows_its_every_key(section: str) -> None:
    values = load_params(ROOT / "params.yaml")[section]
    for config in owners(owner(section)):
        assert config.__dataclass_params__.frozen, f"{config.__name__} can be changed after it was checked"
    hidden = {field.name for field in dataclasses.fields(owner(section))} - set(values)
    assert hidden == set(), f"params.yaml says nothing of {section}: {sorted(hidden)}"


def test_every_key_has_a_sentence_above_it() -> None:
    assert uncommented_keys((ROOT / "params.yaml").read_text(encoding="utf-8")) == []


def test_a_key_without_a_sentence_is_found() -> None:
    text = "a:\n  # The one.\n  one: 1\n  two: 2\n  # not a sentence\n  three: [x: y]\n"
    assert uncommented_keys(text) == ["line 4: two", "line 6: three"]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_read_somewhere(section: str) -> None:
    read = _attributes_read()
    unread = [
        f"{config.__name__}.{field.name}"
        for config in owners(owner(section))
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
