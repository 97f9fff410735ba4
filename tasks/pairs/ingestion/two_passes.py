"""The two passes of ingestion over all rows, and their account.

Duplicates, contradictions and a limit depend on every row, and the rows may not fit into memory. So the first pass
writes parts of pairs and one file of the keys of all of them, queries over the keys decide
(:mod:`tasks.pairs.ingestion.verdicts`), and the second pass writes train and test
(:mod:`tasks.pairs.ingestion.shards`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.core.background import Behind
from tasks.core.files import kept_on_error
from tasks.core.json_lines import json_line
from tasks.pairs.ingestion.intake import Intake
from tasks.pairs.ingestion.parts import KEYS, Part, PartFolder, read_columns
from tasks.pairs.ingestion.selection import SIDES
from tasks.pairs.ingestion.shards import ReadPart
from tasks.pairs.ingestion.sources import Source
from tasks.pairs.ingestion.verdicts import Verdicts
from tasks.pairs.record.parquet import SCHEMA, TableWriter
from tasks.pairs.record.rejection import NEITHER_SIDE, NO_PREFERENCE, NOT_FAULTY, Rejection
from tasks.telemetry.log import bar, get_logger

_BATCH = 1 << 14  # pairs of single answers in a part
_KEYS_AT_ONCE = 1 << 12
_ENTRY = pa.field("entry", pa.uint16(), nullable=False)
_SPILLED = ("pair_id", "source", "weight", "margin", *(field.name for field in KEYS))

_log = get_logger(__name__)


@contextlib.contextmanager
def listing(folder: Path, kept: Path | None) -> Iterator[Callable[[Rejection], None]]:
    """Yield what lists a rejected row in `rejects.jsonl`, and what it is kept for in `unpaired.jsonl`.

    Args:
        folder: Where the lists go.
        kept: Where `rejects.jsonl` stays if an error ends the block; None for nowhere.
    """
    rejects, unpaired = folder / "rejects.jsonl", folder / "unpaired.jsonl"
    with (
        kept_on_error(rejects, kept),
        rejects.open("w", encoding="utf-8", newline="\n") as lines,
        unpaired.open("w", encoding="utf-8", newline="\n") as others,
    ):

        def reject(rejection: Rejection) -> None:
            others.write(rejection.kept)
            line = {"source": rejection.source, "reason": rejection.reason, "detail": rejection.detail[:200]}
            lines.write(json_line(line))

        yield reject
    if not unpaired.stat().st_size:
        unpaired.unlink()


class KeyWriter(TableWriter):
    """Writes the keys of all parts to one file, with the number of their entry in `ingest.sources`; a context manager.

    Attributes:
        parts: The parts, in order.
    """

    def __init__(self, path: Path) -> None:
        columns = pa.schema([*SCHEMA, *KEYS])
        super().__init__(path, pa.schema([*(columns.field(name) for name in _SPILLED), _ENTRY]), _KEYS_AT_ONCE)
        self.parts: list[ReadPart] = []

    def append(self, part: Part, entry: int) -> None:
        """Add a part's keys; they reach the disk with those of others.

        Raises:
            StorageError: The part is damaged.
        """
        keys = read_columns(part.path, _SPILLED)
        self.parts.append(ReadPart.of(part, entry, keys))
        entries = pa.array(np.full(len(keys), entry, np.uint16))
        for batch in keys.append_column(_ENTRY, entries).combine_chunks().to_batches():
            self.append_batch(batch)


def first_pass(
    intake: Intake,
    sources: Iterable[Source],
    folder: PartFolder,
    spill: Path,
    reject: Callable[[Rejection], None],
) -> list[ReadPart]:
    """Write the pairs to parts in ``folder``, and their keys to the file ``spill``.

    Returns:
        The parts, in order.

    Raises:
        DataError: A source cannot be read, or none of its rows has a column that is needed.
        StorageError: A process was killed, or a part is damaged.
    """
    with KeyWriter(spill) as keys, Behind() as writing, bar("reading", unit=" rows") as shown:
        for source in sources:
            taker, blocks = intake.open(source)
            for part in folder.parts(taker, blocks, source.file):
                intake.add(source, part.counts)
                intake.answers.extend(dataclasses.replace(answer, number=source.entry) for answer in part.answers)
                writing.do(keys.append, part, source.entry)
                for rejection in part.rejections:
                    reject(rejection)
                shown.update(part.counts.rows)
            intake.close(source)

        outcomes = ((taken, intake.entry) for taken in intake.finish())
        for entry, some in itertools.groupby(outcomes, key=lambda outcome: outcome[1]):
            while batch := [taken for taken, _ in itertools.islice(some, _BATCH)]:
                part = folder.add(batch, intake.total)
                writing.do(keys.append, part, entry)
                for rejection in part.rejections:
                    reject(rejection)
    return keys.parts


def account(intake: Intake, verdicts: Verdicts, statistics: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics, after checking that every row read went to exactly one place."""
    rejected = dict(intake.rejected)
    left_out = {
        "rejected": sum(n for reason, n in rejected.items() if reason not in NOT_FAULTY),
        "no_preference": sum(n for reason, n in rejected.items() if reason in NO_PREFERENCE),
        "personal_data": rejected.pop("personal_data", 0),
        "duplicate": rejected.pop("duplicate", 0),
        "contradiction": verdicts.counts["contradiction"],
        "filtered": intake.total.filtered,
        "over_limit": verdicts.counts["over_limit"],
        "in_test_source": verdicts.counts["in_test_source"],
        "near_both_sides": verdicts.counts["near_both_sides"],
        **{reason: rejected.pop(reason, 0) for reason in NEITHER_SIDE},
    }
    kept = sum(verdicts.counts[side] for side in SIDES)
    if intake.total.outcomes != kept + sum(left_out.values()):
        raise AssertionError(f"{intake.total.outcomes} outcomes of rows, {kept} pairs kept, left out: {left_out}")
    _say(intake.rows, verdicts, left_out, rejected)
    for name in ("weight", "margin"):
        if name in statistics:
            _log.info("the column %s has a value for %d pairs: %s", name, statistics[name]["pairs"], statistics[name])

    return {
        "rows_read": intake.rows,
        "rows_by_source": dict(intake.rows_by_source),
        "outcomes": intake.total.outcomes,
        **statistics,
        "left_out": left_out,
        "rejected": dict(sorted(rejected.items())),
        "contradictory_pairs": verdicts.contradictory,
        "columns_not_read": intake.unread,
        "columns_ignored": intake.ignored,
        "forms": intake.forms,
    }


def _say(rows: int, verdicts: Verdicts, left_out: dict[str, int], rejected: dict[str, int]) -> None:
    """Log where the rows went."""
    train, test = (f"{verdicts.counts[side]:,}" for side in SIDES)
    reasons = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in left_out.items() if count)
    kept = f"{train} pairs to train on, {test} held out"
    _log.info("%s rows: %s; left out: %s", f"{rows:,}", kept, reasons or "none")
    if rejected:
        counts = ", ".join(f"{reason} {count:,}" for reason, count in sorted(rejected.items()))
        _log.warning("rejected: %s; rejects.jsonl names the rows", counts)
