"""The rows of one source, turned into pairs and rejections: no row needs another, so any process can do it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tasks.pairs.forms.groups import Groups
from tasks.pairs.forms.reader import FormReader
from tasks.pairs.hygiene.personal_data import PersonalData
from tasks.pairs.ingestion.counts import Counts
from tasks.pairs.ingestion.reading import Reading
from tasks.pairs.ingestion.rows import parse_row
from tasks.pairs.raw.raw_row import RawRow
from tasks.pairs.raw.unread import UnreadColumns
from tasks.pairs.record.pair import Columns, Pair
from tasks.pairs.record.rejection import Rejection


class RowTaker:
    """Turns the rows of one source into pairs and rejections; it can be pickled.

    Attributes:
        reading: What params say of the source.
        reader: Its form.

    Args:
        reading: The same.
        sample: The objects among the first rows, which show the form.
        personal_data: Looks at each pair; None for no look.

    Raises:
        ConfigError: The columns that are named make no form.
    """

    def __init__(
        self, reading: Reading, sample: Sequence[dict[str, Any]], personal_data: PersonalData | None = None
    ) -> None:
        self.reading = reading
        self.reader = FormReader(sample, reading.forms, reading.columns, reading.ignored)
        self._personal_data = personal_data

    def take(self, rows: Iterable[RawRow], counts: Counts, groups: Groups) -> Iterator[Pair | Rejection]:
        """Yield a pair or a rejection for every row that the filter lets through, in order.

        Args:
            rows: Rows of the source.
            counts: Takes the counts of these rows.
            groups: Takes the rows that hold a single answer; their pairs come when all rows are read.
        """
        form, where, ignored = self.reader.form, self.reading.where, self.reading.ignored
        unread = self._unread_columns()
        seen: tuple[str, ...] = ()
        for row in rows:
            counts.rows += 1
            if isinstance(row.value, dict):
                names = tuple(row.value)
                if names != seen:  # most rows have the columns of the row before
                    counts.see_columns(names)
                    seen = names
                if not counts.see_fields(row.value, where):
                    counts.filtered += 1
                    counts.outcomes += 1
                    continue
                unread.see(row.value, row.where)
                if ignored and not ignored.isdisjoint(row.value):
                    row = row._replace(value={name: row.value[name] for name in row.value if name not in ignored})
            if form is None:
                yield self.decide(row, self.reader.columns, counts)
            else:
                for made in self.reader.rewrite(row, groups):
                    yield self.decide(made, self.reader.columns, counts)

        counts.unread, counts.ignored, counts.shaping = unread.unread, unread.ignored, unread.shaping
        if self._personal_data:
            counts.personal_data = self._personal_data.take_counts()

    def _unread_columns(self) -> UnreadColumns:
        fields = {part for name in self.reading.where for part in (name, name.split(".")[0])}
        columns, reads = self.reader.columns, self.reading.columns.reads() | fields
        # forms look at the objects that they open themselves
        opened = {name.rpartition(".")[0] for name in reads if "." in name} if self.reader.form is None else ()
        return UnreadColumns(
            reads | self.reader.reads,
            self.reading.ignored,
            is_order_assumed=(columns.chosen, columns.rejected) != (Columns.chosen, Columns.rejected),
            opened=opened,
        )

    def decide(self, row: RawRow | Rejection, columns: Columns, counts: Counts) -> Pair | Rejection:
        """Return the pair of a row with standard columns, or why it is none, and count it."""
        counts.outcomes += 1
        taken = parse_row(row, columns) if isinstance(row, RawRow) else row
        if self._personal_data:
            taken = self._personal_data.check(taken)
        if isinstance(taken, Pair):
            counts.prompts_removed += taken.is_prompt_removed
        else:
            taken = dataclasses.replace(taken, detail=self.reading.named(taken.detail))
            counts.reject(taken)
        return taken
