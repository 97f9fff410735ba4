"""What came of the rows of a source, or of a block of them, in numbers that add up."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Any, Self

from tasks.pairs.ingestion.filters import Conditions, matches
from tasks.pairs.record.pair import ABSENT, get_field
from tasks.pairs.record.rejection import Rejection

_MOST_COLUMNS = 100  # that a message may name


@dataclasses.dataclass
class Counts:
    """Counts of rows; those of the blocks of a source add up to those of the source.

    Attributes:
        rows: How many rows were read.
        outcomes: How many pairs and rejections they gave, those that the filter left out included.
        objects: How many of the rows are objects.
        filtered: How many the filter left out.
        prompts_removed: How many pairs had replies that began with their prompt.
        rejected: How many were turned away, by reason.
        first: The source and the detail of the first rejection of each reason.
        columns: The columns that there are, in order.
        lacking: How many rows lack a column that they need.
        without_field: How many rows lack a field that the filter names.
        unread: The columns that nothing reads, in order.
        ignored: The columns that are left out on purpose, in order.
        shaping: Where each unread column that may shape the prompt or the label first held something.
        personal_data: How many pieces of personal data there were, by kind.
    """

    rows: int = 0
    outcomes: int = 0
    objects: int = 0
    filtered: int = 0
    prompts_removed: int = 0
    rejected: Counter[str] = dataclasses.field(default_factory=Counter)
    first: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    columns: dict[str, None] = dataclasses.field(default_factory=dict)
    lacking: Counter[str] = dataclasses.field(default_factory=Counter)
    without_field: Counter[str] = dataclasses.field(default_factory=Counter)
    unread: dict[str, None] = dataclasses.field(default_factory=dict)
    ignored: dict[str, None] = dataclasses.field(default_factory=dict)
    shaping: dict[str, str] = dataclasses.field(default_factory=dict)
    personal_data: Counter[str] = dataclasses.field(default_factory=Counter)

    def add(self, other: Counts) -> None:
        """Add the counts of rows that come behind these."""
        for name, value in vars(other).items():
            here: Any = getattr(self, name)
            if isinstance(value, int):
                setattr(self, name, here + value)
            elif isinstance(value, Counter):
                here.update(value)
            else:
                here.update({key: item for key, item in value.items() if key not in here})
        self.columns = dict.fromkeys(itertools.islice(self.columns, _MOST_COLUMNS))

    def reject(self, rejection: Rejection) -> None:
        """Count a rejection."""
        self.rejected[rejection.reason] += 1
        self.first.setdefault(rejection.reason, [rejection.source, rejection.detail])
        if rejection.column:
            self.lacking[rejection.column] += 1

    def see_fields(self, row: dict[str, Any], where: Conditions) -> bool:
        """Count an object, and tell whether the filter lets it through."""
        self.objects += 1
        if not where:
            return True
        for name in where:
            self.without_field[name] += get_field(row, name) is ABSENT
        return matches(row, where)

    def absent_fields(self) -> list[str]:
        """Return the fields that the filter names and no row has: their names are wrong."""
        return [name for name, count in self.without_field.items() if count == self.objects > 0]

    def see_columns(self, names: Iterable[Any]) -> None:
        """Remember the columns of a row."""
        if len(self.columns) < _MOST_COLUMNS:
            self.columns.update(dict.fromkeys(map(str, itertools.islice(names, _MOST_COLUMNS))))

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {name: dict(value) if isinstance(value, dict) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the counts that :meth:`to_json` gave."""
        counts = cls(**values)
        for field in dataclasses.fields(cls):
            if field.default_factory is Counter:
                setattr(counts, field.name, Counter(getattr(counts, field.name)))
        return counts
