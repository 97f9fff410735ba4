"""What a form is: it rewrites a published row into rows with columns such as prompt, chosen and rejected."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Self

from tasks.pairs.raw.cells import Refused, is_blank, need
from tasks.pairs.raw.column_names import shapes_prompt
from tasks.pairs.raw.transcripts import is_transcript, parse_transcript
from tasks.pairs.record.pair import ABSENT, FORM_COLUMNS, Columns, get_field

Paths = str | tuple[str, ...]  # where a value stands: a path, or several of which the first that is filled counts
NOTHING: Mapping[str, Paths] = {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """How the rows of one schema are read.

    Attributes:
        name: What it is called in params, in the log and in the report.
        about: In one line, what is read from which column.
        needs: The paths that rows of this schema have.
        paths: Standard columns, and where each stands in a row.
        beside: Columns of the schema that shape neither the prompt nor the label.
        kept: Top-level columns that the user named, so that they stay in the rewritten row.
        waived: Columns and keys that the user leaves out on purpose (`ingest.ignore`).
        has_margin: The margin that the form finds is the row's.
    """

    name: str
    about: str = ""
    needs: tuple[str, ...] = ()
    paths: Mapping[str, Paths] = dataclasses.field(default_factory=dict)
    beside: tuple[str, ...] = ()
    kept: frozenset[str] = frozenset()
    waived: frozenset[str] = frozenset()
    has_margin: bool = True

    def inner_paths(self) -> Iterator[str]:
        """Yield every path that the form reads."""
        for path in self.paths.values():
            yield from each(path)

    @property
    def reads(self) -> frozenset[str]:
        """The top-level columns that the form takes, or knows to shape nothing."""
        return frozenset(path.split(".")[0] for path in (*self.inner_paths(), *self.beside))

    def is_of(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a row has what this form needs."""
        return all(get_field(dict(row), path) is not ABSENT for path in self.needs)

    def bind(self, columns: Columns, ignored: Collection[str]) -> Self:
        """Return the form beside the user's columns: what they name is read from there, and what they waive is not."""
        usual = {name: getattr(columns, name, name) == name and name not in ignored for name in self.paths}
        renamed = [column for name, column in dataclasses.asdict(columns).items() if column not in (name, None)]
        return dataclasses.replace(
            self,
            paths={name: path for name, path in self.paths.items() if usual[name]},
            kept=frozenset(column.split(".")[0] for column in renamed),
            waived=frozenset(ignored),
            has_margin=columns.margin == Columns.margin,
        )

    def columns(self, columns: Columns) -> Columns:
        """Return what the columns of the rewritten rows are called."""
        names: dict[str, Any] = dict.fromkeys(FORM_COLUMNS)
        return dataclasses.replace(columns, **names, **{name: name for name in self.columns_given()})

    def columns_given(self) -> tuple[str, ...]:
        """Return the standard columns that the rewritten rows have."""
        return ("chosen", "rejected", *self.paths)

    def rows(self, row: dict[str, Any]) -> list[dict[str, Any] | Refused]:
        """Return the rows with standard columns that a row holds, and why parts of it hold none.

        Raises:
            Refused: The row holds no pair, with the reason.
        """
        common = self.common(row)
        pairs = self.pairs(row)
        if not self.has_margin or "margin" in common:
            pairs = [pair if isinstance(pair, Refused) else _without_margin(pair) for pair in pairs]
        return [pair if isinstance(pair, Refused) else {**common, **pair} for pair in pairs]

    def common(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return what all pairs of a row share: the columns that stay, and the form's under standard names."""
        taken = self.reads - self.kept
        common = {name: value for name, value in row.items() if name not in taken}
        for name, path in self.paths.items():
            value = find(row, path)
            if value is not ABSENT:
                common[name] = value
        if "prompt" in common:
            common["prompt"] = as_turns(common["prompt"])
        self._refuse_unread(row)
        return common

    def pairs(self, row: dict[str, Any]) -> list[dict[str, Any] | Refused]:
        """Return `chosen`, `rejected` and further standard columns of each pair; here they are among the paths."""
        for name in ("chosen", "rejected"):
            if name in self.paths and find(row, self.paths[name]) is ABSENT:
                need(row, each(self.paths[name])[0])
        return [{}]

    def _refuse_unread(self, row: dict[str, Any]) -> None:
        """Refuse a row if an object that the form opens has a key that may shape the prompt, and that is not read."""
        paths = [path for path in (*self.inner_paths(), *self.beside) if "." in path and "*" not in path]
        for parent in {path.rpartition(".")[0] for path in paths}:
            read = {path.rpartition(".")[2] for path in paths}
            refuse_unread_keys(get_field(row, parent), parent, read | self.waived)


def _without_margin(pair: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in pair.items() if name != "margin"}


def refuse_unread_keys(value: Any, name: str, read: Collection[str]) -> None:
    """Refuse an object with a filled key that may shape the prompt and is not among those that are ``read``."""
    for key in value if isinstance(value, dict) else ():
        if key not in read and shapes_prompt(str(key)) and not is_blank(value[key]):
            detail = f"`{name}` has `{key}`, which may shape the prompt, and which nothing reads"
            raise Refused("unread_key", f"{detail}: `ingest.ignore: [{key}]` leaves it out on purpose")


def each(path: Paths) -> tuple[str, ...]:
    """Return one path or several as several."""
    return (path,) if isinstance(path, str) else path


def find(row: dict[str, Any], path: Paths) -> Any:
    """Return the first filled value of the paths; else a blank one, else the mark for none."""
    values = [get_field(row, name) for name in each(path)]
    there = [value for value in values if value is not ABSENT]
    return next((value for value in there if not is_blank(value)), there[0] if there else ABSENT)


def find_all(row: dict[str, Any], path: str) -> list[Any]:
    """Return all values of a path in which `*` stands for every item of a list; a value that is a list is its items."""
    head, _, tail = path.partition(".*")
    value = get_field(row, head)
    items = value if isinstance(value, list) else [] if value is ABSENT else [value]
    if not tail:
        return items
    return [inner for item in items if isinstance(item, dict) for inner in find_all(item, tail[1:])]


def as_turns(prompt: Any) -> Any:
    """Return a prompt that is a transcript as messages, without the opened turn of the reply; others as they are."""
    if not isinstance(prompt, str) or not is_transcript(prompt):
        return prompt
    turns = parse_transcript(prompt)
    turns = turns[:-1] if turns[-1].role == "assistant" and not turns[-1].content else turns
    return [turn.fields() for turn in turns]
