"""Reading sources into pairs, with every row accounted for.

A row becomes a pair, or a rejection with one reason; rows that a filter leaves out are counted.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from tasks.core.errors import DataError
from tasks.pairs.forms.choose import SAMPLE
from tasks.pairs.forms.groups import AnswerStore, Groups
from tasks.pairs.hygiene.personal_data import PersonalData
from tasks.pairs.ingestion.counts import Counts
from tasks.pairs.ingestion.filters import Wanted, read_conditions
from tasks.pairs.ingestion.formats import rows_of
from tasks.pairs.ingestion.reading import Reading
from tasks.pairs.ingestion.row_taker import RowTaker
from tasks.pairs.ingestion.sources import Source, find_sources, rows_source
from tasks.pairs.raw.raw_row import Block, RawRow
from tasks.pairs.raw.unread import refuse_unread
from tasks.pairs.record.pair import Columns, Pair
from tasks.pairs.record.rejection import NO_PREFERENCE, NOT_FAULTY, Rejection
from tasks.telemetry.log import get_logger

_COLUMNS_ADVICE = (
    "name the file's columns under `ingest.columns`: prompt, chosen and rejected; or two answers and a vote (first, "
    "second, winner); or answers and their scores (answers, text, score or rank)"
)
_PROMPT_ADVICE = (
    "name the question's column as prompt under `ingest.columns`; without one, chosen and rejected are lists of "
    "messages, or transcripts whose turns begin with a blank line and `Human:` or `Assistant:`"
)

_log = get_logger(__name__)


class Intake:
    """Turns the rows of sources into pairs and rejections, and counts them.

    Attributes:
        total: The counts of all sources that were read.
        rows_by_source: How many rows each source gave.
        unread: The columns of each source that nothing reads.
        ignored: The columns of each source that are left out on purpose.
        forms: How each source is read, in one line.
        answers: The single answers, whose pairs come behind those of all sources.
        entry: The number in `ingest.sources` of the entry that the last pair comes from.

    Args:
        personal_data: Looks at each pair; None for no look.
    """

    def __init__(self, personal_data: PersonalData | None = None) -> None:
        self._personal_data = personal_data
        self._source = Counts()  # of the source that is read now
        self.total = Counts()
        self.rows_by_source: Counter[str] = Counter()
        self.unread: dict[str, list[str]] = {}
        self.ignored: dict[str, list[str]] = {}
        self.forms: dict[str, str] = {}
        self.answers = AnswerStore()
        self.entry = 0
        self._readings: dict[int, Reading] = {}  # by the entry's number

    @property
    def rows(self) -> int:
        """How many rows were read."""
        return self.total.rows

    @property
    def rejected(self) -> Counter[str]:
        """How many rows were turned away, by reason; duplicates are one of the reasons."""
        return self.total.rejected

    def read(self, sources: Iterable[Source]) -> Iterator[Pair | Rejection]:
        """Yield a pair or a rejection for every row that the filter lets through, in order.

        Raises:
            DataError: A source cannot be read, or none of its rows has a column that is needed.
        """
        for source in sources:
            taker, blocks = self.open(source)
            for block in blocks:
                counts, groups = Counts(), Groups(source.entry)
                yield from taker.take(rows_of(block, source.file), counts, groups)
                self.answers.extend(groups.entries)
                self.add(source, counts)
            self.close(source)
        yield from self.finish()

    def open(self, source: Source) -> tuple[RowTaker, Iterator[Block]]:
        """Return what turns the rows of a source into pairs, and its blocks of rows.

        Raises:
            ConfigError: The columns that are named make no form.
            DataError: The source cannot be read.
        """
        blocks, first = source.blocks(), []
        sample: list[RawRow] = []
        for block in blocks:
            first.append(block)
            sample += itertools.islice(rows_of(block, source.file), SAMPLE - len(sample))
            if len(sample) >= SAMPLE:
                break
        objects = [row.value for row in sample if isinstance(row.value, dict)]
        with source.reading.naming():
            taker = RowTaker(source.reading, objects, self._personal_data)

        self._source, self.entry = Counts(), source.entry
        self._readings[source.entry] = source.reading
        self.forms[source.name] = taker.reader.about
        if taker.reader.form:
            _log.info("%s: read as %s", source.name, taker.reader.about)
        return taker, itertools.chain(first, blocks)

    def add(self, source: Source, counts: Counts) -> None:
        """Add the counts of a block of the source that was opened last.

        Raises:
            DataError: A column that nothing reads may shape the prompt or the label.
        """
        self._source.add(counts)
        if _absent_columns(self._source):  # without replies there is nothing to shape
            return
        with source.reading.naming():
            refuse_unread(source.name, self._source.shaping, _with_question(source.reading.columns, self._source))

    def close(self, source: Source) -> None:
        """Add the counts of the source, whose rows are all read.

        Raises:
            DataError: None of its rows has a column that is needed.
        """
        counts = self._source
        with source.reading.naming():
            _check_columns(source.name, counts)
        self.total.add(counts)
        self.rows_by_source[source.name] += counts.rows
        for names, listed, what in (
            (counts.unread, self.unread, "not read"),
            (counts.ignored, self.ignored, "left out on purpose"),
        ):
            if names:
                listed[source.name] = sorted(names)
                _log.info("%s: %s: %s", source.name, what, ", ".join(listed[source.name]))

    def finish(self) -> Iterator[Pair | Rejection]:
        """Yield the pairs of single answers, and why the others make none."""
        taker = RowTaker(Reading(), (), self._personal_data)
        for made, answer in self.answers.finish():
            self.entry, taker.reading = answer.number, self._readings[answer.number]
            yield taker.decide(made, answer.columns, self.total)
        if self._personal_data:
            self.total.personal_data += self._personal_data.take_counts()
        if self.total.prompts_removed:
            _log.info("%d pairs: the replies began with the prompt, which was removed", self.total.prompts_removed)

    def check_share(self, limit: float) -> None:
        """Refuse data of which more than ``limit`` (0 to 1) was turned away.

        Duplicates, rows that hold no preference, such as ties, and rows that are left out on purpose do not count.

        Raises:
            DataError: With the share and the most frequent reasons.
        """
        reasons = Counter({why: n for why, n in self.rejected.items() if why not in NOT_FAULTY})
        faulty, without = reasons.total(), Counter({why: self.rejected[why] for why in NO_PREFERENCE})
        considered = self.total.outcomes - self.total.filtered - without.total()
        if considered and faulty / considered <= limit:
            return
        if not considered and without.total():
            raise DataError(
                f"none of {self.rows} rows holds a preference: {self._most_frequent(without)}",
                "add rows in which one answer is better, or name what the votes mean in `ingest.votes`",
            )
        if not considered:
            raise DataError("`where` leaves no row", "correct its field or value")
        raise DataError(
            f"{faulty} of {considered} rows are no usable pairs ({faulty / considered:.1%}): "
            f"{self._most_frequent(reasons)}",
            f"fix the data or `ingest.columns`; to go on without them, raise `ingest.max_rejected_share` over {limit}",
        )

    def _most_frequent(self, reasons: Counter[str]) -> str:
        """Return the most frequent reasons with their counts, and the detail of the first such row."""
        top = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(3) if count)
        first = self.total.first.get(reasons.most_common(1)[0][0])
        return f"{top}; the first is {first[0]}: {first[1][:200]}" if first else top


def _with_question(columns: Columns, counts: Counts) -> Columns:
    """Return the columns with the one that holds the rows' question as their prompt."""
    options = [columns.prompt, *columns.questions, columns.instruction, columns.input]
    name = next((name for name in options if name and name in counts.columns), columns.prompt)
    return dataclasses.replace(columns, prompt=name)


def _absent_columns(counts: Counts) -> list[str]:
    """Return the columns that are needed and that no row has."""
    return [name for name, count in counts.lacking.items() if count == counts.objects - counts.filtered]


def _check_columns(source: str, counts: Counts) -> None:
    """Refuse a source if a column that was asked for is in none of its rows: then its name is wrong."""
    if counts.filtered and counts.filtered == counts.objects:
        _log.warning("%s: `where` leaves none of its %d rows", source, counts.objects)
    fields = counts.absent_fields()
    if absent := [*fields, *_absent_columns(counts)]:
        is_prompt = "not_a_transcript" in counts.rejected
        advice = _PROMPT_ADVICE if is_prompt else _COLUMNS_ADVICE
        advice = "correct the field under `ingest.where`" if fields else advice
        names = ", ".join(counts.columns)
        raise DataError(f"{source} has no column `{absent[0]}` (it has: {names})", advice)


def read_pairs(
    *data: str | Iterable[Any],
    columns: Columns | None = None,
    where: Mapping[str, Wanted] | None = None,
    max_rejected_share: float = 0.1,
    ignored: Collection[str] = (),
) -> Iterator[Pair]:
    """Yield the pairs of files, globs, pinned hub data sets, or rows at hand, without exact duplicates.

    What was turned away is logged by reason when the last row is read.

    Args:
        data: Paths, globs or `hub:…` texts; or iterables of dicts, such as a `datasets.Dataset`.
        columns: What the columns are called; prompt, chosen, rejected, slice, weight and margin unless said.
        where: Fields and the values that rows must have there, as in `ingest.where`.
        max_rejected_share: Above this share (0 to 1) of unusable rows, refuse the data.
        ignored: Columns that may shape a prompt or a label and are left out on purpose.

    Raises:
        DataError: A source cannot be read, or too many rows are unusable.
    """
    intake, reading = Intake(), Reading(columns or Columns(), read_conditions(where or {}, "where"), frozenset(ignored))
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
