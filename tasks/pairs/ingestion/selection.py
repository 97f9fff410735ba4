"""Which pairs are kept, and on which side: what params say, and the queries that decide by it.

The first query numbers the rows of the first pass's file; the last one makes the table `places`, which has an index
into :data:`PLACES` for each row of that file, in its order.
"""

from __future__ import annotations

import dataclasses
import glob
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import DataError
from tasks.pairs.ingestion.near import near_sides, read_prompts
from tasks.pairs.ingestion.reading import SourceEntry, read_entries
from tasks.pairs.raw.cells import LARGEST_WEIGHT, SMALLEST_WEIGHT

SIDES = ("train", "test")
DUPLICATES = ("duplicate", "duplicate_differs")
PLACES = (*SIDES, *DUPLICATES, "contradiction", "over_limit", "in_test_source", "near_both_sides")

_ENTRIES = "CREATE TEMP TABLE entries (entry USMALLINT, factor DOUBLE, split ENUM ('auto', 'train', 'test'))"
_KEYS = """
CREATE TEMP TABLE keys AS
SELECT file_row_number AS ordinal, entry, split, pair_key, swapped_key, split_key, weight * factor AS weight, margin
FROM read_parquet($spill, file_row_number = true) JOIN entries USING (entry)
"""
_BAD_WEIGHT = """
SELECT source, entry, weight, factor FROM read_parquet($spill, file_row_number = true) JOIN entries USING (entry)
WHERE factor <> 1 AND NOT weight * factor BETWEEN $least AND $most ORDER BY file_row_number LIMIT 1
"""
# A prompt that stands in a test source is never trained on; of the others, one that stands in a train source always is.
_PROMPTS = """
CREATE TEMP TABLE tested AS SELECT DISTINCT split_key FROM keys WHERE split = 'test';
CREATE TEMP TABLE trained AS SELECT DISTINCT split_key FROM keys WHERE split = 'train';
CREATE TEMP VIEW candidates AS FROM keys WHERE split = 'test' OR split_key NOT IN (FROM tested);
CREATE TEMP TABLE over_source (entry USMALLINT, pair_key UBIGINT);
CREATE TEMP TABLE held_out (split_key UBIGINT);
CREATE TEMP TABLE near (split_key UBIGINT, side UTINYINT);
CREATE TEMP MACRO in_share(key, share, shares) AS key % shares::UBIGINT = share::UBIGINT;
CREATE TEMP TABLE contradicting (pair_key UBIGINT);
CREATE TEMP TABLE firsts AS FROM keys LIMIT 0;
CREATE TEMP TABLE placed (ordinal BIGINT, first_weight DOUBLE, first_margin DOUBLE, place UTINYINT)
"""
# These are asked for a share of the pairs at a time, which their ids choose: joins of all would not fit into memory.
_CONTRADICTING = """
INSERT INTO contradicting
SELECT DISTINCT pair_key FROM candidates
SEMI JOIN (SELECT pair_key AS other FROM candidates WHERE in_share(pair_key, $share, $shares)) ON other = swapped_key
WHERE in_share(swapped_key, $share, $shares)
"""
# Ids are hashes: the pairs whose ids come first are a fixed random choice.
_OVER_SOURCE = """
INSERT INTO over_source SELECT $entry, pair_key FROM candidates
WHERE entry = $entry AND NOT ($drops AND pair_key IN (FROM contradicting))
GROUP BY pair_key ORDER BY pair_key OFFSET $limit
"""
_FIRSTS = """
INSERT INTO firsts WITH limited AS (
    FROM (FROM candidates WHERE in_share(pair_key, $share, $shares)) ANTI JOIN over_source USING (entry, pair_key)
) FROM limited SEMI JOIN (SELECT min(ordinal) AS ordinal FROM limited GROUP BY pair_key) USING (ordinal)
"""
_OVER_LIMIT = """
CREATE TEMP TABLE over_limit AS
SELECT pair_key FROM firsts WHERE NOT ($drops AND pair_key IN (FROM contradicting))
ORDER BY pair_key OFFSET $limit
"""
# Of each entry's prompts, in the order of their hashes; a prompt is of the first entry in which it stands.
_STRATA = """
CREATE TEMP TABLE strata AS
SELECT split_key, min(entry) AS entry FROM firsts
WHERE split <> 'test' AND split_key NOT IN (FROM trained) AND pair_key NOT IN (FROM over_limit)
      AND NOT ($drops AND pair_key IN (FROM contradicting))
GROUP BY split_key
"""
_HELD_OUT = """
INSERT INTO held_out SELECT split_key FROM strata WHERE entry = $entry ORDER BY split_key
LIMIT (SELECT round(count(*) * $share)::BIGINT FROM strata WHERE entry = $entry)
"""
_SIDE = """
CASE WHEN keys.split_key IN (FROM tested) THEN 1 WHEN keys.split_key IN (FROM trained) THEN 0
     ELSE (keys.split_key < $threshold OR keys.split_key IN (FROM held_out))::INT END
"""
# The prompts that are kept, those of test sources first, each with its side before near-duplicates are looked for.
_OWN_SIDES = f"""
SELECT split_key, min(ordinal) AS ordinal, {_SIDE} AS side, split_key IN (FROM tested) AS is_tested,
       split_key NOT IN (FROM tested) AND split_key NOT IN (FROM trained) AS is_free
FROM firsts AS keys WHERE pair_key NOT IN (FROM over_limit)
GROUP BY split_key ORDER BY is_tested DESC, ordinal
"""
_PLACES = f"""
INSERT INTO placed
SELECT keys.ordinal, firsts.weight AS first_weight, firsts.margin AS first_margin,
       (CASE WHEN keys.split <> 'test' AND keys.split_key IN (FROM tested) THEN 6
             WHEN (keys.entry, pair_key) IN (FROM over_source WHERE in_share(pair_key, $share, $shares)) THEN 5
             WHEN keys.ordinal <> firsts.ordinal THEN
                  CASE WHEN keys.weight = firsts.weight AND keys.margin = firsts.margin THEN 2 ELSE 3 END
             WHEN $drops AND pair_key IN (FROM contradicting) THEN 4
             WHEN pair_key IN (FROM over_limit WHERE in_share(pair_key, $share, $shares)) THEN 5
             WHEN near.side = 2 THEN 7
             ELSE coalesce(near.side, {_SIDE}) END)::UTINYINT AS place
FROM (FROM keys WHERE in_share(pair_key, $share, $shares)) keys
LEFT JOIN (FROM firsts WHERE in_share(pair_key, $share, $shares)) firsts USING (pair_key)
LEFT JOIN near ON near.split_key = keys.split_key
"""
_IN_ORDER = "CREATE TEMP TABLE places AS FROM placed ORDER BY ordinal; DROP TABLE placed; DROP TABLE firsts"
_SHARE_ROWS = 1 << 21  # about so many rows are joined at a time


class Execute(Protocol):
    """Runs a query with its parameters, which are numbered or named."""

    def __call__(self, query: str, *listed: Any, **values: Any) -> duckdb.DuckDBPyConnection:
        """Run a query."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """What params say of the pairs that are kept, and of their sides.

    Attributes:
        drops_contradictions: Whether both of two contradictory pairs are left out.
        limit: The most pairs to keep; None keeps all.
        test_share: The share of prompts that are held out, 0 to below 1.
        is_stratified: Whether this share is that of every entry.
        finds_near: Whether near-duplicate prompts stand on one side.
        entries: The entries of `ingest.sources`: their weights, limits and sides.
    """

    drops_contradictions: bool
    limit: int | None
    test_share: float
    is_stratified: bool
    finds_near: bool
    entries: Sequence[SourceEntry]

    @classmethod
    def of(cls, section: Any) -> Selection:
        """Return what the section `ingest` says."""
        entries = [entry for entry, _ in read_entries(section)]
        drops, finds_near = section.contradictions == "drop", section.near_duplicates == "minhash"
        return cls(drops, section.limit, section.test_share, section.stratify, finds_near, entries)


def make_places(execute: Execute, path: Path, selection: Selection) -> int:
    """Make the tables `places`, in the order of the rows, and `contradicting` of the keys of pairs that stand swapped.

    Returns:
        How many prompts are near-duplicates of earlier ones; 0 where nobody looked for them.

    Raises:
        DataError: A source's weight makes a row's weight no normal number of 32 bits.
    """
    spill = pattern(path)
    drops, entries = selection.drops_contradictions, list(enumerate(selection.entries))
    execute(_ENTRIES)
    for number, entry in entries:
        execute("INSERT INTO entries VALUES ($1, $2, $3)", number, entry.weight, entry.split)
    if any(entry.weight != 1 for entry in selection.entries):
        _check_weights(execute, spill)
    execute(_KEYS, spill=spill)
    execute(_PROMPTS)
    shares = shares_of(path)
    for share in shares:
        execute(_CONTRADICTING, share=share, shares=len(shares))

    for number, entry in entries:
        if entry.limit is not None:
            execute(_OVER_SOURCE, entry=number, drops=drops, limit=entry.limit)
    for share in shares:
        execute(_FIRSTS, share=share, shares=len(shares))
    execute(_OVER_LIMIT, drops=drops, limit=2**62 if selection.limit is None else selection.limit)

    if selection.is_stratified:
        execute(_STRATA, drops=drops)
        for number, _ in entries:
            execute(_HELD_OUT, entry=number, share=selection.test_share)
    threshold = 0 if selection.is_stratified else math.ceil(selection.test_share * 2**64)
    near = _move_near(execute, path, threshold) if selection.finds_near else 0
    for share in shares:
        execute(_PLACES, drops=drops, threshold=threshold, share=share, shares=len(shares))
    execute(_IN_ORDER)
    return near


def shares_of(path: Path) -> range:
    """Return the shares of the pairs that are joined one after the other, so that memory does not grow with them."""
    return range(1 + pq.read_metadata(path).num_rows // _SHARE_ROWS)


def _move_near(execute: Execute, path: Path, threshold: int) -> int:
    """Make the table `near`, the sides of the prompts that are near to earlier ones, and return how many are."""
    prompts = execute(_OWN_SIDES, threshold=threshold).fetchnumpy()
    texts = read_prompts(path, prompts["ordinal"])
    sides, is_near = near_sides(texts, prompts["side"], prompts["is_tested"], prompts["is_free"])
    answer = path.with_suffix(".near")
    pq.write_table(pa.table({"split_key": prompts["split_key"][is_near], "side": sides[is_near]}), answer)
    execute("INSERT INTO near FROM read_parquet($answer)", answer=pattern(answer))
    answer.unlink()
    return int(is_near.sum())


def pattern(path: Path) -> str:
    """Return what DuckDB reads as exactly this file: it takes paths for globs."""
    return glob.escape(str(path))


def _check_weights(execute: Execute, spill: str) -> None:
    for source, entry, weight, factor in execute(
        _BAD_WEIGHT, spill=spill, least=SMALLEST_WEIGHT, most=LARGEST_WEIGHT
    ).fetchall():
        what = f"{source} has the weight {weight:g}, and `ingest.sources[{entry}].weight` is {factor:g}"
        raise DataError(f"{what}: their product is no normal number of 32 bits", "change one of them")
