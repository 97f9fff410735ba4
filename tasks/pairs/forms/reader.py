"""The form of one source, which rewrites its rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from tasks.pairs.forms.choose import STANDARD, FormSettings, choose_form
from tasks.pairs.forms.groups import Groups
from tasks.pairs.forms.singles import Singles
from tasks.pairs.raw.cells import Refused
from tasks.pairs.raw.raw_row import RawRow
from tasks.pairs.record.pair import Columns
from tasks.pairs.record.rejection import Rejection

_STANDARD_ABOUT = "the columns of prompt, chosen and rejected"


class FormReader:
    """The form that a source's first rows show.

    Args:
        sample: The objects among the source's first rows.
        settings: What params say of forms.
        columns: `ingest.columns`.
        ignored: `ingest.ignore`.

    Attributes:
        form: The form; None for chosen and rejected columns.
        columns: What the columns of the rewritten rows are called.

    Raises:
        ConfigError: The columns that are named make no form.
    """

    def __init__(
        self, sample: Sequence[dict[str, Any]], settings: FormSettings, columns: Columns, ignored: Collection[str]
    ) -> None:
        self.form = choose_form(sample, settings, columns, ignored)
        self.columns = self.form.columns(columns) if self.form else columns

    @property
    def about(self) -> str:
        """The form's name and what it reads from which column."""
        return f"{self.form.name}: {self.form.about}" if self.form else f"{STANDARD}: {_STANDARD_ABOUT}"

    @property
    def reads(self) -> frozenset[str]:
        """The top-level columns that the form takes beside the standard ones."""
        return self.form.reads if self.form else frozenset()

    def rewrite(self, row: RawRow, groups: Groups) -> Iterator[RawRow | Rejection]:
        """Yield the rows with standard columns that a row holds, or why it holds none.

        ``groups`` takes single answers.
        """
        if self.form is None or row.fault or not isinstance(row.value, dict):
            yield row
            return
        try:
            if isinstance(self.form, Singles):
                yield from groups.add(self.form, self.columns, row)
                return
            values = self.form.rows(row.value)
        except Refused as refusal:
            values = [refusal]
        for value in values:
            if isinstance(value, Refused):
                yield Rejection(row.where, value.reason, value.detail, value.column)
            else:
                yield RawRow(row.where, value)
