"""What the registry's commands share: their answers, and how they find the version that an argument names."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tasks.core import paths
from tasks.core.params import load_params
from tasks.registry.log.names import Address
from tasks.registry.stores.open_store import open_store
from tasks.registry.stores.store import Store
from tasks.registry.versions.registry import Registry, UnknownVersion, names_in


@dataclasses.dataclass(frozen=True)
class Answer:
    """A command's answer: values for machines, lines for people, and the exit status."""

    values: Any
    lines: Sequence[str]
    status: int = 0


def params_section() -> dict[str, Any]:
    """Return params.yaml's `register` section; empty if there is no such file or section."""
    if not paths.PARAMS.is_file():
        return {}
    section = load_params(paths.PARAMS).get("register")
    return section if isinstance(section, dict) else {}


def named_store(args: Namespace) -> Store:
    """Return the store that `--root` or params.yaml names, which may be empty."""
    section = params_section()
    root = args.root or str(section.get("root", "models/registry"))
    if args.root and "://" not in root:
        root = str(Path(root).absolute())  # what a person types is relative to where they stand
    return open_store(root, str(section.get("encryption") or ""), str(section.get("kms_key") or ""))


def store_of(args: Namespace) -> Store:
    """Return the store that `--root` or params.yaml names, which must hold a registry.

    Raises:
        UnknownVersion: Nothing was ever registered there.
    """
    store = named_store(args)
    if not names_in(store):
        advice = "register first: `dvc repro -s -f register`, or give --root"
        raise UnknownVersion(f"there is no registry in {store.label}", advice)
    return store


def registry_of(store: Store, name: str) -> Registry:
    """Return one name's registry; an unknown name is refused, and similar names are suggested."""
    registry = Registry(store, name)
    if name not in names_in(store):
        registry.refuse_unknown()
    return registry


def find(args: Namespace, word: str | None = None) -> tuple[Registry, str]:
    """Return the registry and the digest of the version that ``word``, or the argument `version`, names."""
    address = Address.parse(word or args.version)
    registry = registry_of(store_of(args), address.name)
    return registry, registry.find(address.selector)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table with aligned columns."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
