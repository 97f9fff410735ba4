"""Which pairs are kept, and on which side: what params say, and the queries that decide by it.

The first query numbers the rows of the first pass's file; the last one makes the table `places`, which has an index
into :data:`PLACES` for each row.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol

import duckdb

from tasks.core.errors import DataError
from tasks.pairs.ingestion.reading import SourceEntry, read_entries
from tasks.pairs.raw.cells import LARGEST_WEIGHT, SMALLEST_WEIGHT

SIDES = ("train", "test")
DUPLICATES = ("duplicate", "duplicate_differs")
PLACES = (*SIDES, *DUPLICATES, "contradiction", "over_limit", "in_test_source")

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
CREATE TEMP TABLE held_out (split_key UBIGINT)
"""
_CONTRADICTING = """
CREATE TEMP TABLE contradicting AS
SELECT DISTINCT pair_key FROM candidates SEMI JOIN (SELECT pair_key AS other FROM candidates) ON other = swapped_key
"""
# Ids are hashes: the pairs whose ids come first are a fixed random choice.
_OVER_SOURCE = """
INSERT INTO over_source SELECT $entry, pair_key FROM candidates
WHERE entry = $entry AND NOT ($drops AND pair_key IN (FROM contradicting))
GROUP BY pair_key ORDER BY pair_key OFFSET $limit
"""
_FIRSTS = """
CREATE TEMP TABLE firsts AS WITH limited AS (FROM candidates ANTI JOIN over_source USING (entry, pair_key))
FROM limited SEMI JOIN (SELECT min(ordinal) AS ordinal FROM limited GROUP BY pair_key) USING (ordinal)
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
_PLACES = """
CREATE TEMP TABLE places AS
SELECT keys.ordinal, firsts.weight AS first_weight, firsts.margin AS first_margin,
       (CASE WHEN keys.split <> 'test' AND keys.split_key IN (FROM tested) THEN 6
             WHEN (keys.entry, pair_key) IN (FROM over_source) THEN 5
             WHEN keys.ordinal <> firsts.ordinal THEN
                  CASE WHEN keys.weight = firsts.weight AND keys.margin = firsts.margin THEN 2 ELSE 3 END
             WHEN $drops AND pair_key IN (FROM contradicting) THEN 4
             WHEN pair_key IN (FROM over_limit) THEN 5
             WHEN keys.split = 'test' THEN 1
             WHEN keys.split_key IN (FROM trained) THEN 0
             ELSE (keys.split_key < $threshold OR keys.split_key IN (FROM held_out))::INT END)::UTINYINT AS place
FROM keys LEFT JOIN firsts USING (pair_key)
"""


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
        entries: The entries of `ingest.sources`: their weights, limits and sides.
    """

    drops_contradictions: bool
    limit: int | None
    test_share: float
    is_stratified: bool
    entries: Sequence[SourceEntry]

    @classmethod
    def of(cls, section: Any) -> Selection:
        """Return what the section `ingest` says."""
        entries = [entry for entry, _ in read_entries(section)]
        drops = section.contradictions == "drop"
        return cls(drops, section.limit, section.test_share, section.stratify, entries)


def make_places(execute: Execute, spill: str, selection: Selection) -> None:
    """Make the table `places` (and `contradicting`, the keys of pairs that also stand swapped) of the file ``spill``.

    Raises:
        DataError: A source's weight makes a row's weight no normal number of 32 bits.
    """
    drops, entries = selection.drops_contradictions, list(enumerate(selection.entries))
    execute(_ENTRIES)
    for number, entry in entries:
        execute("INSERT INTO entries VALUES ($1, $2, $3)", number, entry.weight, entry.split)
    if any(entry.weight != 1 for entry in selection.entries):
        _check_weights(execute, spill)
    execute(_KEYS, spill=spill)
    execute(_PROMPTS)
    execute(_CONTRADICTING)

    for number, entry in entries:
        if entry.limit is not None:
            execute(_OVER_SOURCE, entry=number, drops=drops, limit=entry.limit)
    execute(_FIRSTS)
    execute(_OVER_LIMIT, drops=drops, limit=2**62 if selection.limit is None else selection.limit)

    if selection.is_stratified:
        execute(_STRATA, drops=drops)
        for number, _ in entries:
            execute(_HELD_OUT, entry=number, share=selection.test_share)
    threshold = 0 if selection.is_stratified else math.ceil(selection.test_share * 2**64)
    execute(_PLACES, drops=drops, threshold=threshold)


def _check_weights(execute: Execute, spill: str) -> None:
    for source, entry, weight, factor in execute(
        _BAD_WEIGHT, spill=spill, least=SMALLEST_WEIGHT, most=LARGEST_WEIGHT
    ).fetchall():
        what = f"{source} has the weight {weight:g}, and `ingest.sources[{entry}].weight` is {factor:g}"
        raise DataError(f"{what}: their product is no normal number of 32 bits", "change one of them")
