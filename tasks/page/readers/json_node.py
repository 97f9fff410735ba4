"""Strict readers of JSON and CSV files; the error of a missing or wrong value names file and key."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tasks.core.errors import ArtifactError
from tasks.core.files import read_json
from tasks.core.json_lines import read_json_lines

Facts = TypeVar("Facts")


@dataclasses.dataclass(frozen=True)
class Node:
    """A JSON object and its origin.

    Attributes:
        values: The object's keys and values.
        where: Its file and the keys that lead to it, for error messages.
        stage: The stage that wrote it and that an error message says to run again.
    """

    values: Mapping[str, Any]
    where: str
    stage: str

    def wrong(self, key: str, what: str) -> ArtifactError:
        """Return the error that says that ``key`` is ``what``."""
        return ArtifactError(f"`{key}` {what} in {self.where}", f"run `dvc repro -f {self.stage}`")

    def get(self, key: str) -> Any:
        """Return the value of ``key``, which must exist; it may be null."""
        if key not in self.values:
            raise self.wrong(key, "is missing")
        return self.values[key]

    def optional(self, key: str) -> float | None:
        """Return a finite number, or None if the value is null."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.wrong(key, f"is {value!r}, not a finite number,")
        return float(value)

    def number(self, key: str) -> float:
        """Return a finite number."""
        value = self.optional(key)
        if value is None:
            raise self.wrong(key, "is null, not a number,")
        return value

    def count(self, key: str) -> int:
        """Return a whole number, zero or more."""
        value = self.number(key)
        if value < 0 or value != int(value):
            raise self.wrong(key, f"is {value!r}, not a count,")
        return int(value)

    def counts(self) -> dict[str, int]:
        """Return all values by their keys; each must be a count."""
        return {key: self.count(key) for key in self.values}

    def text(self, key: str) -> str:
        """Return a text."""
        value = self.get(key)
        if not isinstance(value, str):
            raise self.wrong(key, f"is {value!r:.80}, not text,")
        return value

    def items(self, key: str, *kinds: type) -> tuple[Any, ...]:
        """Return the items of a list, all of them of these kinds."""
        value = self.get(key)
        if not isinstance(value, list) or not all(isinstance(item, kinds) for item in value):
            raise self.wrong(key, f"is {value!r:.80}, not a list of {kinds[0].__name__},")
        return tuple(value)

    def node(self, key: str) -> Node:
        """Return the object under ``key``."""
        value = self.get(key)
        if not isinstance(value, dict):
            raise self.wrong(key, f"is {value!r:.80}, not an object,")
        return Node(value, f"{self.where} → {key}", self.stage)

    def fill(self, kind: type[Facts], **values: Any) -> Facts:
        """Return a dataclass with these values; each other field is read from the key of its name, as its type says."""
        readers = {"int": self.count, "float": self.number, "float | None": self.optional, "str": self.text}
        for name, annotation in inspect.get_annotations(kind).items():
            if name not in values:
                values[name] = readers[annotation](name)
        return kind(**values)

    def nodes(self) -> dict[str, Node]:
        """Return all values by their keys; each must be an object."""
        return {key: self.node(key) for key in self.values}


def read_node(path: Path, stage: str) -> Node:
    """Read a JSON file of ``stage`` that holds one object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} holds {type(value).__name__}, not an object", f"run `dvc repro -f {stage}`")
    return Node(value, str(path), stage)


def read_lines(path: Path, stage: str) -> Iterator[Node]:
    """Read a JSON Lines file an object at a time."""
    for number, value in enumerate(read_json_lines(path, stage), start=1):
        yield Node(value, f"{path}:{number}", stage)


def read_columns(path: Path, names: tuple[str, ...], stage: str) -> dict[str, list[float]]:
    """Read the named columns of a CSV file of numbers.

    Raises:
        ArtifactError: The file or a column is missing, or a cell is not a finite number.
    """
    columns: dict[str, list[float]] = {name: [] for name in names}
    if not path.is_file():
        raise ArtifactError(f"{path} is missing", f"run `dvc repro -f {stage}`")
    with path.open(encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=2):
            node = Node({name: _cell(row.get(name)) for name in names if name in row}, f"{path}:{number}", stage)
            for name in names:
                columns[name].append(node.number(name))
    return columns


def _cell(text: str | None) -> float | str | None:
    """Return the number in a cell, its text if it is not a number, or None if it is empty."""
    try:
        return float(text) if text else None
    except ValueError:
        return text
