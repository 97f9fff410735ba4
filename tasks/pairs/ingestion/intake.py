"""Reading sources into pairs, with every row accounted for.

A row becomes a pair, or a rejection with one reason; rows that a filter leaves out are counted.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from tasks.core.errors import DataError
from tasks.pairs.forms.groups import Groups
from tasks.pairs.forms.reader import FormReader
from tasks.pairs.hygiene.personal_data import PersonalData
from tasks.pairs.ingestion.reading import Reading, Scalar
from tasks.pairs.ingestion.rows import parse_row
from tasks.pairs.ingestion.sources import Source, find_sources, rows_source
from tasks.pairs.raw.raw_row import RawRow
from tasks.pairs.raw.unread import UnreadColumns
from tasks.pairs.record.pair import ABSENT, NO_PREFERENCE, Columns, Pair, Rejection, get_field
from tasks.telemetry.log import get_logger

_log = get_logger(__name__)


class Intake:
    """Turns the rows of sources into pairs and rejections, and counts them.

    Attributes:
        personal_data: Looks at each pair; None for no look.
        rows: How many rows were read.
        outcomes: How many pairs and rejections they gave; a row may give several, and several rows one.
        filtered: How many of them ``where`` left out.
        rejected: How many were turned away, by reason; duplicates are one of the reasons.
        rows_by_source: How many rows each source gave.
        prompts_removed: How many pairs had replies that began with their prompt.
        unread: The columns of each source that nothing reads.
        ignored: The columns of each source that are left out on purpose.
        forms: How each source is read, in one line.
    """

    def __init__(self, personal_data: PersonalData | None = None) -> None:
        self.personal_data = personal_data
        self.rows = 0
        self.outcomes = 0
        self.filtered = 0
        self.rejected: Counter[str] = Counter()
        self.rows_by_source: Counter[str] = Counter()
        self.prompts_removed = 0
        self.unread: dict[str, list[str]] = {}
        self.ignored: dict[str, list[str]] = {}
        self.forms: dict[str, str] = {}
        self._first_rejection: dict[str, Rejection] = {}

    def read(self, sources: Iterable[Source]) -> Iterator[Pair | Rejection]:
        """Yield a pair or a rejection for every row that the filter lets through, in order.

        Raises:
            DataError: A source cannot be read, or none of its rows has a column that is needed.
        """
        groups = Groups()
        for source in sources:
            reading = source.reading
            reader = FormReader(source.read(), reading.forms, reading.columns, reading.ignored, groups)
            self.forms[source.name] = reader.about
            if reader.form:
                _log.info("%s: read as %s", source.name, reader.about)
            check = _ColumnCheck(source.name)
            unread = UnreadColumns(
                source.name,
                {
                    *reading.columns.reads(),
                    *(name.split(".")[0] for name in reading.where),
                    *reading.where,
                    *reader.reads,
                },
                reading.ignored,
                is_order_assumed=(reader.columns.chosen, reader.columns.rejected) != (Columns.chosen, Columns.rejected),
            )

            for row in reader.rows:
                self.rows += 1
                self.rows_by_source[source.name] += 1
                yield from self._take(row, reading, reader, check, unread)

            check.finish()
            unread.finish()
            self._note_unread(source.name, unread)
        for made, columns in groups.finish():
            yield self._decide(made, columns)
        if self.prompts_removed:
            _log.info("%d pairs: the replies began with the prompt, which was removed", self.prompts_removed)

    def _note_unread(self, source: str, unread: UnreadColumns) -> None:
        """Remember and log which columns of a source nothing reads, and which are left out on purpose."""
        if unread.unread:
            self.unread[source] = sorted(unread.unread)
            _log.info("%s: not read: %s", source, ", ".join(self.unread[source]))
        if unread.ignored:
            self.ignored[source] = sorted(unread.ignored)
            _log.info("%s: left out on purpose: %s", source, ", ".join(self.ignored[source]))

    def _take(
        self, row: RawRow, reading: Reading, reader: FormReader, check: _ColumnCheck, unread: UnreadColumns
    ) -> Iterator[Pair | Rejection]:
        if isinstance(row.value, dict):
            check.see(row.value, reading.where)
            if not _matches(row.value, reading.where):
                self.filtered += 1
                self.outcomes += 1
                check.filtered += 1
                return
            unread.see(row.value, row.where)
            row = _without_ignored(row, reading.ignored)
        for made in reader.rewrite(row) if reader.form else (row,):
            yield self._decide(made, reader.columns, check)

    def _decide(self, row: RawRow | Rejection, columns: Columns, check: _ColumnCheck | None = None) -> Pair | Rejection:
        """Return the pair of a row with standard columns, or why it is none, and count it."""
        self.outcomes += 1
        taken = parse_row(row, columns) if isinstance(row, RawRow) else row
        if self.personal_data:
            taken = self.personal_data.check(taken)
        if isinstance(taken, Pair):
            self.prompts_removed += taken.is_prompt_removed
        else:
            self.rejected[taken.reason] += 1
            self._first_rejection.setdefault(taken.reason, taken)
            if taken.column and check:
                check.lacking[taken.column] += 1
        return taken

    def check_share(self, limit: float) -> None:
        """Refuse data of which more than ``limit`` (0 to 1) was turned away.

        Duplicates, personal data that are to be dropped, and rows without a preference, such as ties, do not count.

        Raises:
            DataError: With the share and the most frequent reasons.
        """
        expected = NO_PREFERENCE | {"duplicate", "personal_data"}
        reasons = Counter({why: n for why, n in self.rejected.items() if why not in expected})
        faulty, without = reasons.total(), Counter({why: self.rejected[why] for why in NO_PREFERENCE})
        considered = self.outcomes - self.filtered - without.total()
        if considered and faulty / considered <= limit:
            return
        if not considered and without.total():
            raise DataError(
                f"none of {self.rows} rows holds a preference: {self._most_frequent(without)}",
                "add rows in which one answer is better, or name what the votes mean in `ingest.votes`",
            )
        if not considered:
            raise DataError("`ingest.where` leaves no row", "correct its field or value")
        raise DataError(
            f"{faulty} of {considered} rows are no usable pairs ({faulty / considered:.1%}): "
            f"{self._most_frequent(reasons)}",
            f"fix the data or `ingest.columns`; to go on without them, raise `ingest.max_rejected_share` over {limit}",
        )

    def _most_frequent(self, reasons: Counter[str]) -> str:
        """Return the most frequent reasons with their counts, and the detail of the first such row."""
        top = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(3) if count)
        first = self._first_rejection.get(reasons.most_common(1)[0][0])
        return f"{top}; the first is {first.source}: {first.detail[:200]}" if first else top


@dataclasses.dataclass
class _ColumnCheck:
    """Finds out whether a column is absent from *every* row of a source: then its name is wrong."""

    source: str
    objects: int = 0
    filtered: int = 0
    columns: dict[str, None] = dataclasses.field(default_factory=dict)
    lacking: Counter[str] = dataclasses.field(default_factory=Counter)
    unfiltered: Counter[str] = dataclasses.field(default_factory=Counter)

    def see(self, row: dict[str, Any], where: Mapping[str, Scalar]) -> None:
        self.objects += 1
        if self.objects <= 100:
            self.columns.update(dict.fromkeys(map(str, row)))
        for name in where:
            self.unfiltered[name] += get_field(row, name) is ABSENT

    def finish(self) -> None:
        """Refuse the source if a column that was asked for is in none of its rows."""
        parsed = self.objects - self.filtered
        absent = [name for name, count in self.unfiltered.items() if count == self.objects > 0]
        absent += [name for name, count in self.lacking.items() if count == parsed]
        if absent:
            names = ", ".join(self.columns)
            raise DataError(f"{self.source} has no column `{absent[0]}` (it has: {names})", self._advice(absent[0]))

    def _advice(self, name: str) -> str:
        if name in self.unfiltered:
            return "correct the field under `ingest.where`"
        return (
            "name the file's columns under `ingest.columns`: prompt, chosen and rejected; or two answers and a vote "
            "(first, second, winner); or answers and their scores (answers, text, score or rank)"
        )


def _without_ignored(row: RawRow, ignored: frozenset[str]) -> RawRow:
    """Return the row as if it had none of the columns that `ingest.ignore` names."""
    if ignored.isdisjoint(row.value):
        return row
    return RawRow(row.where, {name: value for name, value in row.value.items() if name not in ignored})


def _matches(row: dict[str, Any], where: Mapping[str, Scalar]) -> bool:
    """Tell whether every field named has the value asked for; true is not 1."""
    for name, wanted in where.items():
        value = get_field(row, name)
        if value != wanted or isinstance(value, bool) != isinstance(wanted, bool):
            return False
    return True


def read_pairs(
    *data: str | Iterable[Any],
    columns: Columns | None = None,
    where: Mapping[str, Scalar] | None = None,
    max_rejected_share: float = 0.1,
    ignored: Collection[str] = (),
) -> Iterator[Pair]:
    """Yield the pairs of files, globs, pinned hub data sets, or rows at hand, without exact duplicates.

    What was turned away is logged by reason when the last row is read.

    Args:
        data: Paths, globs or `hub:…` texts; or iterables of dicts, such as a `datasets.Dataset`.
        columns: What the columns are called; prompt, chosen, rejected, slice, weight and margin unless said.
        where: Fields and the values that rows must have there.
        max_rejected_share: Above this share (0 to 1) of unusable rows, refuse the data.
        ignored: Columns that may shape a prompt or a label and are left out on purpose.

    Raises:
        DataError: A source cannot be read, or too many rows are unusable.
    """
    intake, reading = Intake(), Reading(columns or Columns(), where or {}, frozenset(ignored))
    sources: list[Source] = []
    for given in data:
        if isinstance(given, str):
            sources.extend(find_sources([given], reading))
        else:
            sources.append(rows_source(given, reading=reading))
    numbers: dict[str, tuple[float, float]] = {}  # weight and margin of each pair's first row, by its id
    for taken in intake.read(sources):
        if not isinstance(taken, Pair):
            continue
        first = numbers.setdefault(taken.pair_id, here := (taken.weight, taken.margin))
        if first is here:
            yield taken
        else:
            intake.rejected["duplicate" if first == here else "duplicate_differs"] += 1
    intake.check_share(max_rejected_share)
    if intake.rejected:
        _log.warning("of %d rows, turned away: %s", intake.rows, dict(intake.rejected))
