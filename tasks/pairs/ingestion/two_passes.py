"""The two passes of ingestion over all rows, and their account.

Contradictory pairs and a limit depend on every row, and the rows may not fit into memory; so the first
pass writes all distinct pairs to one file, and the second one sorts them into train and test.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from tasks.core.json_lines import json_line
from tasks.pairs.ingestion.intake import Intake
from tasks.pairs.ingestion.sources import Source
from tasks.pairs.record.pair import Pair, Rejection
from tasks.pairs.record.parquet import PairWriter, keep_rows, read_batches
from tasks.telemetry.log import bar, get_logger

SIDES = ("train", "test")
HELD_OUT = pa.field("is_held_out", pa.bool_(), nullable=False)

_MOST_SLICES = 50  # more groups than that are an identifier rather than a slice, and would flood the metrics
_log = get_logger(__name__)


@dataclasses.dataclass
class Numbers:
    """Statistics of an optional column of numbers.

    Attributes:
        usual: The number of a row that has none.
        unusual: How many rows have another number.
    """

    usual: float
    unusual: int = 0
    total: float = 0.0
    smallest: float = math.inf
    largest: float = -math.inf

    def add(self, values: list[float]) -> None:
        """Count some rows."""
        self.unusual += sum(value != self.usual for value in values)
        self.total = math.fsum([self.total, *values])
        self.smallest, self.largest = min([self.smallest, *values]), max([self.largest, *values])

    def metrics(self, rows: int) -> dict[str, Any]:
        """Return how many of ``rows`` have another number than the usual one, and the spread over all of them."""
        spread = {"min": self.smallest, "mean": self.total / max(rows, 1), "max": self.largest}
        return {"pairs": self.unusual, **{name: float(f"{value:.6g}") for name, value in spread.items()}}


@dataclasses.dataclass
class Sorted:
    """Counts over the distinct pairs by side, and the lengths of their texts."""

    pairs: Counter[str] = dataclasses.field(default_factory=Counter)
    prompts: dict[str, set[str]] = dataclasses.field(default_factory=lambda: {side: set() for side in SIDES})
    slices: dict[str, Counter[str]] = dataclasses.field(default_factory=lambda: {side: Counter() for side in SIDES})
    characters: Counter[str] = dataclasses.field(default_factory=Counter)
    chosen_longer: int = 0
    weights: Numbers = dataclasses.field(default_factory=lambda: Numbers(usual=1.0))
    margins: Numbers = dataclasses.field(default_factory=lambda: Numbers(usual=0.0))
    over_limit: int = 0

    def add(self, side: str, batch: pa.RecordBatch) -> None:
        """Count the rows of a batch that went to ``side``."""
        self.pairs[side] += batch.num_rows
        self.prompts[side].update(batch.column("prompt_id").to_pylist())
        self.slices[side].update(name for name in batch.column("slice").to_pylist() if name is not None)
        for chosen, rejected in zip(
            batch.column("chosen").to_pylist(), batch.column("rejected").to_pylist(), strict=True
        ):
            self.characters.update(chosen=len(chosen), rejected=len(rejected))
            self.chosen_longer += len(chosen) > len(rejected)
        self.weights.add(batch.column("weight").to_pylist())
        self.margins.add(batch.column("margin").to_pylist())

    def metrics(self) -> dict[str, Any]:
        """Return the counts as `dvc metrics` shows them."""
        total = max(self.pairs.total(), 1)
        names = sorted(set(self.slices["train"]) | set(self.slices["test"]))
        return {
            "pairs": {side: self.pairs[side] for side in SIDES},
            "prompts": {side: len(self.prompts[side]) for side in SIDES},
            "characters_mean": {name: round(self.characters[name] / total, 2) for name in ("chosen", "rejected")},
            "chosen_longer_share": round(self.chosen_longer / total, 4),
            **({"weight": self.weights.metrics(total)} if self.weights.unusual else {}),
            **({"margin": self.margins.metrics(total)} if self.margins.unusual else {}),
            "slices": {name: {side: self.slices[side][name] for side in SIDES} for name in names[:_MOST_SLICES]},
            "slices_found": len(names),
        }


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


def sort_pairs(
    spill: Path,
    folder: Path,
    ids: Collection[str],
    contradicting: Collection[str],
    limit: int | None,
    reject: Callable[[Rejection], None],
) -> Sorted:
    """Write `train.parquet` and `test.parquet` into ``folder`` from the first pass's file.

    Args:
        spill: All distinct pairs, with :data:`HELD_OUT` behind the schema.
        folder: Where the two files go.
        ids: Of all distinct pairs.
        contradicting: Ids of pairs to leave out as contradictions; each is passed to ``reject``.
        limit: The most pairs to keep, those whose ids come first in order: a fixed random choice, for ids are hashes.
            None keeps all.
        reject: Records a rejected row.
    """
    kept = None if limit is None else set(sorted(name for name in ids if name not in contradicting)[:limit])
    result = Sorted()
    with PairWriter(folder / "train.parquet") as train, PairWriter(folder / "test.parquet") as test:
        for batch in read_batches(spill):
            names: list[str] = batch.column("pair_id").to_pylist()
            _reject_contradictions(batch, names, contradicting, reject)
            stays = [name not in contradicting and (kept is None or name in kept) for name in names]
            result.over_limit += sum(name not in contradicting for name in names) - sum(stays)
            held_out: list[bool] = batch.column(HELD_OUT.name).to_pylist()
            for side, writer in (("train", train), ("test", test)):
                wanted = [stay and held is (side == "test") for stay, held in zip(stays, held_out, strict=True)]
                rows = keep_rows(batch, wanted)
                writer.append_batch(rows)
                result.add(side, rows)
    return result


def _reject_contradictions(
    batch: pa.RecordBatch, ids: list[str], contradicting: Collection[str], reject: Callable[[Rejection], None]
) -> None:
    if not contradicting:
        return
    for name, source in zip(ids, batch.column("source").to_pylist(), strict=True):
        if name in contradicting:
            reject(Rejection(source, "contradiction", f"pair {name} also stands with chosen and rejected swapped"))


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
    if intake.outcomes != result.pairs.total() + sum(left_out.values()):
        raise AssertionError(
            f"{intake.outcomes} outcomes of rows, {result.pairs.total()} pairs kept, left out: {left_out}"
        )
    if result.prompts["train"] & result.prompts["test"]:
        raise AssertionError("a prompt stands on both sides of the split")

    train, test = (f"{result.pairs[side]:,}" for side in ("train", "test"))
    reasons = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in left_out.items() if count)
    kept = f"{train} pairs to train on, {test} held out"
    _log.info("%s rows: %s; left out: %s", f"{intake.rows:,}", kept, reasons or "none")
    if rejected:
        counts = ", ".join(f"{reason} {count:,}" for reason, count in sorted(rejected.items()))
        _log.warning("rejected: %s; rejects.jsonl names the rows", counts)
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
        "columns_not_read": intake.unread,
        "forms": intake.forms,
    }
