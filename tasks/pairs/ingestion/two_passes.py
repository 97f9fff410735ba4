"""The first pass over the rows, which writes all distinct pairs to one file, and the account of both passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from tasks.core.json_lines import json_line
from tasks.pairs.ingestion.intake import Intake
from tasks.pairs.ingestion.settle import HELD_OUT, Sorted
from tasks.pairs.ingestion.sources import Source
from tasks.pairs.record.pair import Pair, Rejection
from tasks.pairs.record.parquet import PairWriter
from tasks.telemetry.log import bar, get_logger

_log = get_logger(__name__)


def first_pass(
    intake: Intake,
    sources: Iterable[Source],
    spill: Path,
    is_held_out: Callable[[Pair], bool],
    reject: Callable[[Rejection], None],
) -> list[str]:
    """Write every distinct pair to the file ``spill``, marked with its side; return their ids in order."""
    ids = []
    with PairWriter(spill, extra=[HELD_OUT]) as writer, bar("reading", unit=" rows") as shown:
        for row in intake.read(sources):
            if isinstance(row, Pair):
                writer.append(row, **{HELD_OUT.name: is_held_out(row)})
                ids.append(row.pair_id)
            else:
                reject(row)
            shown.update()
    return ids


def write_rejection(stream: IO[str], rejection: Rejection) -> None:
    """Write a rejected row to rejects.jsonl."""
    line = {"source": rejection.source, "reason": rejection.reason, "detail": rejection.detail[:200]}
    stream.write(json_line(line))


def account(intake: Intake, result: Sorted, drops_contradictions: bool) -> dict[str, Any]:
    """Return the metrics, after checking that every row read went to exactly one place."""
    rejected = dict(intake.rejected)
    duplicates = rejected.pop("duplicate", 0)
    contradictions = len(intake.contradicting)
    left_out = {
        "rejected": sum(rejected.values()),
        "duplicate": duplicates,
        "contradiction": contradictions if drops_contradictions else 0,
        "filtered": intake.filtered,
        "over_limit": result.over_limit,
    }
    if intake.rows != result.pairs.total() + sum(left_out.values()):
        raise AssertionError(f"{intake.rows} rows read, {result.pairs.total()} pairs kept, left out: {left_out}")
    if result.prompts["train"] & result.prompts["test"]:
        raise AssertionError("a prompt stands on both sides of the split")

    _log.info("%d rows: %s pairs, left out: %s", intake.rows, dict(result.pairs), left_out)
    counted = result.metrics()
    for name in ("weight", "margin"):
        if name in counted:
            _log.info("the column %s has a value for %d pairs: %s", name, counted[name]["pairs"], counted[name])

    return {
        "rows_read": intake.rows,
        **counted,
        "left_out": left_out,
        "rejected": dict(sorted(rejected.items())),
        "contradictory_pairs": contradictions,
    }
