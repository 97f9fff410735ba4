"""The files of infra/ and .github/, read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.conftest import ROOT

INFRA = ROOT / "infra"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github" / "actions").glob("*/action.yml"))


@cache
def documents(path: Path) -> list[Any]:
    """Return the documents of a YAML file."""
    return list(YAML(typ="safe").load_all(path.read_text(encoding="utf-8")))


def document(path: Path) -> Any:
    """Return the one document of a YAML file."""
    (only,) = documents(path)
    return only


def pool(name: str) -> Any:
    """Return a work pool's base job template."""
    return json.loads((INFRA / "pools" / f"{name}.json").read_text(encoding="utf-8"))


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what stands at the ends of nested mappings and lists, with the way there."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from leaves(value, f"{path}[{index}]")
    else:
        yield path, node
