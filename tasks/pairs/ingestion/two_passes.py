"""The two passes of ingestion over all rows, and their account.

Duplicates, contradictions and a limit depend on every row, and the rows may not fit into memory. So the first pass
writes all pairs to one file with their keys, queries over the keys decide (:mod:`tasks.pairs.ingestion.verdicts`), and
the second pass writes train and test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from tasks.core.json_lines import json_line
from tasks.pairs.ingestion.intake import Intake
from tasks.pairs.ingestion.sources import Source
from tasks.pairs.ingestion.verdicts import LENGTHS, PLACES, SIDES, Verdicts
from tasks.pairs.record.pair import NO_PREFERENCE, Pair, Rejection
from tasks.pairs.record.parquet import PairWriter, keep_rows, read_batches
from tasks.telemetry.log import bar, get_logger

# What the first pass writes behind the pairs' own columns: the ids as numbers, the side, and lengths in characters.
KEYS = (
    pa.field("pair_key", pa.uint64(), nullable=False),
    pa.field("swapped_key", pa.uint64(), nullable=False),
    pa.field("is_held_out", pa.bool_(), nullable=False),
    *(pa.field(f"{name}_length", pa.int64(), nullable=False) for name in LENGTHS),
)

_log = get_logger(__name__)


def first_pass(
    intake: Intake,
    sources: Iterable[Source],
    spill: Path,
    is_held_out: Callable[[Pair], bool],
    reject: Callable[[Rejection], None],
) -> None:
    """Write every pair to the file ``spill``, with its keys and its side."""
    with PairWriter(spill, extra=KEYS) as writer, bar("reading", unit=" rows") as shown:
        for row in intake.read(sources):
            if isinstance(row, Pair):
                writer.append(row, int(row.pair_id, 16), int(row.swapped_id, 16), is_held_out(row), *row.lengths)
            else:
                reject(row)
            shown.update()


def write_rejection(stream: IO[str], unpaired: IO[str], rejection: Rejection) -> None:
    """Write a rejected row to rejects.jsonl, and what it is kept for to unpaired.jsonl."""
    unpaired.write(rejection.kept)
    line = {"source": rejection.source, "reason": rejection.reason, "detail": rejection.detail[:200]}
    stream.write(json_line(line))


def sort_pairs(spill: Path, folder: Path, verdicts: Verdicts) -> None:
    """Write `train.parquet` and `test.parquet` into ``folder`` from the first pass's file, in its order."""
    start = 0
    with PairWriter(folder / "train.parquet") as train, PairWriter(folder / "test.parquet") as test:
        for batch in read_batches(spill):
            places = verdicts.places[start : start + batch.num_rows]
            start += batch.num_rows
            for side, writer in (("train", train), ("test", test)):
                writer.append_batch(keep_rows(batch, np.equal(places, PLACES.index(side))))


def account(intake: Intake, verdicts: Verdicts, statistics: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics, after checking that every row read went to exactly one place."""
    rejected = dict(intake.rejected)
    left_out = {
        "rejected": sum(n for why, n in rejected.items() if why not in NO_PREFERENCE | {"duplicate", "personal_data"}),
        "no_preference": sum(n for reason, n in rejected.items() if reason in NO_PREFERENCE),
        "personal_data": rejected.pop("personal_data", 0),
        "duplicate": rejected.pop("duplicate", 0),
        "contradiction": verdicts.counts["contradiction"],
        "filtered": intake.filtered,
        "over_limit": verdicts.counts["over_limit"],
    }
    kept = sum(verdicts.counts[side] for side in SIDES)
    if intake.outcomes != kept + sum(left_out.values()):
        raise AssertionError(f"{intake.outcomes} outcomes of rows, {kept} pairs kept, left out: {left_out}")
    _say(intake.rows, verdicts, left_out, rejected)
    for name in ("weight", "margin"):
        if name in statistics:
            _log.info("the column %s has a value for %d pairs: %s", name, statistics[name]["pairs"], statistics[name])

    return {
        "rows_read": intake.rows,
        "rows_by_source": dict(intake.rows_by_source),
        "outcomes": intake.outcomes,
        **statistics,
        "left_out": left_out,
        "rejected": dict(sorted(rejected.items())),
        "contradictory_pairs": verdicts.contradictory,
        "columns_not_read": intake.unread,
        "columns_ignored": intake.ignored,
        "forms": intake.forms,
        **({"personal_data": dict(intake.personal_data.counts)} if intake.personal_data else {}),
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
