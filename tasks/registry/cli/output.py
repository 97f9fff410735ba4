"""What the registry's commands share: their answers, and how they find what the words on the command line name."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Iterable, Sequence
from typing import Any

from tasks.core import paths
from tasks.core.params import load_params
from tasks.registry.log.names import Address
from tasks.registry.stores.open_store import open_store
from tasks.registry.stores.store import Store
from tasks.registry.versions.registry import Registry, UnknownVersion, names_in

DEFAULT_ROOT = "models/registry"


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command found: values for a machine, lines for a person, and the exit status."""

    values: Any
    lines: Sequence[str]
    status: int = 0


def params_section() -> dict[str, Any]:
    """Return params.yaml's `register` section, empty where there is no such file or section."""
    if not paths.PARAMS.is_file():
        return {}
    section = load_params(paths.PARAMS).get("register")
    return section if isinstance(section, dict) else {}


def named_store(words: Namespace) -> Store:
    """Return the store that `--root` or params.yaml names, whatever is in it."""
    section = params_section()
    root = words.root or str(section.get("root", DEFAULT_ROOT))
    return open_store(root, str(section.get("encryption") or ""), str(section.get("kms_key") or ""))


def store_of(words: Namespace) -> Store:
    """Open the registry that `--root` or params.yaml names; it must be there.

    Raises:
        UnknownVersion: Nothing was ever registered there.
    """
    store = named_store(words)
    if not names_in(store):
        advice = "register first: `dvc repro register`, or give --root"
        raise UnknownVersion(f"there is no registry in {store.label}", advice)
    return store


def registry_of(store: Store, name: str) -> Registry:
    """Open one name's registry; an unknown name is refused with those that are near."""
    registry = Registry(store, name)
    if name not in names_in(store):
        registry.refuse_unknown()
    return registry


def find(words: Namespace) -> tuple[Registry, str]:
    """Return the registry and the digest that the word `version` names."""
    return find_word(words, words.version)


def find_word(words: Namespace, word: str) -> tuple[Registry, str]:
    """Return the registry and the digest that ``word`` names, as `demo@champion`."""
    address = Address.parse(word)
    registry = registry_of(store_of(words), address.name)
    return registry, registry.find(address.selector)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table with aligned columns."""
    everything = [list(head), *map(list, rows)]
    widths = [max(len(row[column]) for row in everything) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in everything
    ]


def rate(value: float | None) -> str:
    """Return a rate in four digits."""
    return "-" if value is None else f"{value:.4f}"
