"""The text of a params file, edited one key at a time: all other bytes and all other comments stay."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.representer import RoundTripRepresenter

from tasks.core import paths
from tasks.core.errors import ConfigError

_KEY = re.compile(r"( *)([A-Za-z_]\w*):(?=\s|$)")


@dataclasses.dataclass(frozen=True)
class Lines:
    """Where a key stands in a file, as line numbers from 0: its comment, the key itself, and the end of its value."""

    comment: int
    key: int
    end: int
    indent: int


class _Representer(RoundTripRepresenter):
    """Writes null as `null`, where ruamel would leave the value out."""


_Representer.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))


def with_value(text: str, path: str, value: Any, comment: Sequence[str] = ()) -> str:
    """Return the text of a params file with another value behind a key, and ``comment`` above it if it is given.

    Args:
        text: The file.
        path: The key's path, as `train.objective.beta`.
        value: The value; one that ruamel has read for a round trip is written in its own style.
        comment: Lines that begin with `#`; the comment stays what it is without them.

    Raises:
        ConfigError: No line of the file has that key.
    """
    lines = text.splitlines()
    place = places_of(lines).get(path)
    if place is None:
        raise ConfigError(f"{paths.PARAMS} has no line for `{path}`", "copy it from the repository's params.yaml")
    margin = " " * place.indent
    above = [f"{margin}{line}" for line in comment] or lines[place.comment : place.key]
    below = [f"{margin}{line}" for line in _rendered(path.rpartition(".")[2], value)]
    return "\n".join([*lines[: place.comment], *above, *below, *lines[place.end :]]) + "\n"


def places_of(lines: list[str]) -> dict[str, Lines]:
    """Return where each key stands, by its path; keys inside braces have no line of their own."""
    places: dict[str, Lines] = {}
    path: list[tuple[int, str]] = []  # the indents and names of the keys that the line is inside of
    for number, line in enumerate(lines):
        if not (key := _KEY.match(line)):
            continue
        indent = len(key[1])
        path = [*(outer for outer in path if outer[0] < indent), (indent, key[2])]
        comment, end = number, number + 1
        while comment and lines[comment - 1].lstrip().startswith("#"):
            comment -= 1
        while end < len(lines) and _is_of_value(lines[end], indent):
            end += 1
        places[".".join(name for _, name in path)] = Lines(comment, number, end, indent)
    return places


def _is_of_value(line: str, indent: int) -> bool:
    """Tell whether a line goes on with the value of a key at ``indent``."""
    text = line.lstrip()
    depth = len(line) - len(text)
    return bool(text) and (depth > indent or (depth == indent and text.startswith("- ")))


def _rendered(key: str, value: Any) -> list[str]:
    writer, stream = YAML(), io.StringIO()
    writer.Representer = _Representer
    writer.width = 110
    writer.indent(mapping=2, sequence=4, offset=2)
    writer.dump({key: _without_comments(value)}, stream)
    return stream.getvalue().splitlines()


def _without_comments(value: Any) -> Any:
    """Return a copy of a value as it was written, without the comments that ruamel hangs on it."""
    copy: Any
    if isinstance(value, CommentedMap):
        copy = CommentedMap({key: _without_comments(item) for key, item in value.items()})
    elif isinstance(value, CommentedSeq):
        copy = CommentedSeq([_without_comments(item) for item in value])
    else:
        return value
    if value.fa.flow_style():
        copy.fa.set_flow_style()
    return copy
