"""The rows of one source, rewritten by the source's form."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

from tasks.pairs.forms.choose import SAMPLE, STANDARD, FormSettings, choose_form
from tasks.pairs.forms.groups import Groups
from tasks.pairs.forms.singles import Singles
from tasks.pairs.raw.cells import Refused
from tasks.pairs.raw.raw_row import RawRow
from tasks.pairs.record.pair import Columns, Rejection

_STANDARD_ABOUT = "the columns of prompt, chosen and rejected"


class FormReader:
    """A source's rows, and the form that its first rows show.

    Args:
        rows: All rows of the source.
        settings: What params say of forms.
        columns: `ingest.columns`.
        ignored: `ingest.ignore`.
        groups: Takes the rows that hold a single answer.

    Attributes:
        form: The form; None for chosen and rejected columns.
        columns: What the columns of the rewritten rows are called.
        rows: All rows, as they were read.

    Raises:
        ConfigError: The columns that are named make no form.
        DataError: The source cannot be read.
    """

    def __init__(
        self,
        rows: Iterator[RawRow],
        settings: FormSettings,
        columns: Columns,
        ignored: Collection[str],
        groups: Groups,
    ) -> None:
        first = list(itertools.islice(rows, SAMPLE))
        sample = [row.value for row in first if isinstance(row.value, dict)]
        self.form = choose_form(sample, settings, columns, ignored)
        self._groups = groups
        self.columns = self.form.columns(columns) if self.form else columns
        self.rows = itertools.chain(first, rows)

    @property
    def about(self) -> str:
        """The form's name and what it reads from which column."""
        return f"{self.form.name}: {self.form.about}" if self.form else f"{STANDARD}: {_STANDARD_ABOUT}"

    @property
    def reads(self) -> frozenset[str]:
        """The top-level columns that the form takes beside the standard ones."""
        return self.form.reads if self.form else frozenset()

    def rewrite(self, row: RawRow) -> Iterator[RawRow | Rejection]:
        """Yield the rows with standard columns that a row holds, or why it holds none; a single answer yields none."""
        if self.form is None or row.fault or not isinstance(row.value, dict):
            yield row
            return
        try:
            if isinstance(self.form, Singles):
                yield from self._groups.add(self.form, self.columns, row)
                return
            values = self.form.rows(row.value)
        except Refused as refusal:
            values = [refusal]
        for value in values:
            if isinstance(value, Refused):
                yield Rejection(row.where, value.reason, value.detail, value.column)
            else:
                yield RawRow(row.where, value)
