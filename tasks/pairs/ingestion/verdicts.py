"""What becomes of each pair that was read, decided by queries over the keys of all of them.

DuckDB sorts and joins the keys within a fixed amount of memory, and uses the disk beyond it. So memory does not grow
with the rows, apart from one byte a row for the answer.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from tasks.core.errors import StorageError
from tasks.pairs.record.pair import Rejection

SIDES = ("train", "test")
DUPLICATES = ("duplicate", "duplicate_differs")
LENGTHS = ("prompt", "chosen", "rejected")
PLACES = (*SIDES, *DUPLICATES, "contradiction", "over_limit")

_MEMORY = "256MB"
_MOST_THREADS = 2  # more of them need more memory than the limit leaves each
_MOST_SLICES = 50  # more groups than that are an identifier rather than a slice, and would flood the metrics
_LENGTH_EDGES = [0, *sorted({round(10 ** (step / 10)) for step in range(61)})]  # ten bins a decade, up to a million
_NUMBER_BINS = 20  # of weights and margins, about so many

_KEYS = """
CREATE TEMP TABLE keys AS
SELECT file_row_number AS ordinal, pair_key, swapped_key, weight, margin, is_held_out
FROM read_parquet($spill, file_row_number = true)
"""
_FIRSTS = """
CREATE TEMP TABLE firsts AS
SELECT pair_key, min(ordinal) AS ordinal, any_value(swapped_key) AS swapped_key,
       arg_min(weight, ordinal) AS weight, arg_min(margin, ordinal) AS margin
FROM keys GROUP BY pair_key
"""
_CONTRADICTING = """
CREATE TEMP TABLE contradicting AS
SELECT pair_key FROM firsts SEMI JOIN (SELECT pair_key AS other FROM firsts) ON other = swapped_key
"""
# Ids are hashes: the pairs whose ids come first are a fixed random choice.
_OVER_LIMIT = """
CREATE TEMP TABLE over_limit AS
SELECT pair_key FROM firsts WHERE NOT ($drops AND pair_key IN (FROM contradicting))
ORDER BY pair_key OFFSET $limit
"""
_PLACES = """
CREATE TEMP TABLE places AS
SELECT keys.ordinal, firsts.weight AS first_weight, firsts.margin AS first_margin,
       (CASE WHEN keys.ordinal <> firsts.ordinal THEN
                  CASE WHEN keys.weight = firsts.weight AND keys.margin = firsts.margin THEN 2 ELSE 3 END
             WHEN $drops AND pair_key IN (FROM contradicting) THEN 4
             WHEN pair_key IN (FROM over_limit) THEN 5
             ELSE is_held_out::INT END)::UTINYINT AS place
FROM keys JOIN firsts USING (pair_key)
"""
_REJECTED = """
SELECT source, place, pair_id, first_weight, first_margin, weight, margin
FROM read_parquet($spill, file_row_number = true) JOIN (FROM places WHERE place BETWEEN 2 AND 4) places
ON file_row_number = ordinal ORDER BY place = 4, ordinal
"""
# The first pass wrote the lengths: long texts read here would not fit into the memory limit.
# `histogram` counts up to and including each bound, and these bins leave their upper bound out.
_BINS = ", ".join(
    f"sum({name}_length) AS {name}, histogram(least({name}_length, $edges[-1] - 1) + 1, $edges[2:]) AS {name}_bins"
    for name in LENGTHS
)
_LENGTH_STATISTICS = f"""
SELECT {_BINS}, count(*) FILTER (chosen_length > rejected_length) AS longer
FROM read_parquet($spill, file_row_number = true) SEMI JOIN (FROM places WHERE place < 2) ON ordinal = file_row_number
"""
_STATISTICS = """
SELECT count(*) AS pairs,
       count(*) FILTER (weight <> 1) AS weight_pairs, min(weight) AS weight_min, fsum(weight) AS weight_sum,
       max(weight) AS weight_max,
       count(*) FILTER (margin <> 0) AS margin_pairs, min(margin) AS margin_min, fsum(margin) AS margin_sum,
       max(margin) AS margin_max, count(DISTINCT slice) AS slices
FROM kept
"""
_SLICES = """
SELECT slice, count(*) FILTER (side = 0) AS train, count(*) FILTER (side = 1) AS test
FROM kept WHERE slice IS NOT NULL GROUP BY slice ORDER BY slice LIMIT $most
"""


class Verdicts:
    """A database over the first pass's file; a context manager.

    Attributes:
        places: uint8 [rows], a row's index into :data:`PLACES`.
        counts: How many rows have each place, by its name.
        contradictory: How many distinct pairs also stand with chosen and rejected swapped.
    """

    def __init__(self, spill: Path, drops_contradictions: bool, limit: int | None) -> None:
        """Decide about every row of ``spill``.

        Args:
            spill: Pairs with the columns of :data:`tasks.pairs.ingestion.two_passes.KEYS`. DuckDB's own temporary files
                go beside it.
            drops_contradictions: Whether both of two contradictory pairs are left out.
            limit: The most pairs to keep; None keeps all.
        """
        self._spill = _pattern(spill)
        self._temporary = spill.with_suffix(".tmp")
        threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
        self._database = duckdb.connect(
            config={
                "memory_limit": _MEMORY,
                "threads": threads,
                "temp_directory": str(self._temporary),
                "autoinstall_known_extensions": False,
            }
        )
        self._execute(_KEYS, spill=self._spill)
        self._execute(_FIRSTS)
        self._execute(_CONTRADICTING)
        self._execute(_OVER_LIMIT, drops=drops_contradictions, limit=2**62 if limit is None else limit)
        self._execute(_PLACES, drops=drops_contradictions)

        column = self._execute("SELECT place FROM places ORDER BY ordinal").fetchnumpy()["place"]
        self.places: npt.NDArray[np.uint8] = np.asarray(column)
        numbers = np.bincount(self.places, minlength=len(PLACES)).tolist()
        self.counts = Counter(dict(zip(PLACES, numbers, strict=True)))
        self.contradictory: int = self._row("SELECT count(*) AS pairs FROM contradicting")["pairs"]

    def rejections(self) -> Iterator[Rejection]:
        """Yield the duplicates, then the contradictions, each in the order of the rows."""
        answer = self._execute(_REJECTED, spill=self._spill)
        while rows := answer.fetchmany(1024):
            for source, place, pair_id, *numbers in rows:
                yield Rejection(source, PLACES[place], _detail(PLACES[place], pair_id, numbers))

    def statistics(self, folder: Path) -> dict[str, Any]:
        """Return the metrics of `train.parquet` and `test.parquet` in ``folder``.

        Raises:
            AssertionError: A prompt stands on both sides.
        """
        for number, side in enumerate(SIDES):
            rows = self._database.read_parquet(_pattern(folder / f"{side}.parquet"))
            rows.project(f"{number} AS side, *").create_view(side, replace=True)
        self._execute("CREATE OR REPLACE TEMP VIEW kept AS FROM train UNION ALL FROM test")
        sides = "SELECT prompt_id, min(side) AS low, max(side) AS high FROM kept GROUP BY prompt_id"
        prompts = self._row(
            f"SELECT count(*) FILTER (low = 0) AS train, count(*) FILTER (high = 1) AS test, "
            f"count(*) FILTER (low <> high) AS both FROM ({sides})"
        )
        if prompts.pop("both"):
            raise AssertionError("a prompt stands on both sides of the split")

        totals = self._row(_STATISTICS)
        lengths = self._row(_LENGTH_STATISTICS, spill=self._spill, edges=_LENGTH_EDGES)
        pairs = max(totals["pairs"], 1)
        slices = self._execute(_SLICES, most=_MOST_SLICES).fetchall()
        return {
            "pairs": {side: self.counts[side] for side in SIDES},
            "prompts": prompts,
            "characters_mean": {name: round(int(lengths[name] or 0) / pairs, 2) for name in LENGTHS},
            "chosen_longer_share": round(lengths["longer"] / pairs, 4),
            **_numbers(totals, "weight"),
            **_numbers(totals, "margin"),
            "slices": {name: {"train": train, "test": test} for name, train, test in slices},
            "slices_found": totals["slices"],
            "histograms": {
                "characters": _trimmed(_LENGTH_EDGES, {name: lengths[f"{name}_bins"] for name in LENGTHS}),
                **{name: self._histogram(totals, name) for name in ("weight", "margin") if totals[f"{name}_pairs"]},
            },
        }

    def _histogram(self, totals: dict[str, Any], name: str) -> dict[str, list[float]]:
        """Return the pairs by weight or margin, in bins of one round width; the first begins at the smallest value."""
        low, high = totals[f"{name}_min"], totals[f"{name}_max"]
        query = f"SELECT histogram({name}, equi_width_bins($low::DOUBLE, $high::DOUBLE, {_NUMBER_BINS}, true)) AS bins"
        bins = self._row(f"{query} FROM kept", low=low, high=high)["bins"]
        return {"edges": [_rounded(edge) for edge in (low, *bins)], "pairs": list(bins.values())}

    def __enter__(self) -> Verdicts:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._database.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _row(self, query: str, **values: Any) -> dict[str, Any]:
        """Return the one row that a query gives, by column."""
        answer = self._execute(query, **values)
        (row,) = answer.fetchall()
        return dict(zip([column[0] for column in answer.description or ()], row, strict=True))

    def _execute(self, query: str, **values: Any) -> duckdb.DuckDBPyConnection:
        try:
            return self._database.execute(query, values)
        except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
            reason = str(error).splitlines()[0]
            raise StorageError(
                f"sorting the keys of the pairs failed ({reason})", "free some space and run again"
            ) from None


def _pattern(path: Path) -> str:
    """Return what DuckDB reads as exactly this file: it takes paths for globs."""
    return glob.escape(str(path))


def _detail(place: str, pair_id: str, numbers: list[float]) -> str:
    if place == "contradiction":
        return f"pair {pair_id} also stands with chosen and rejected swapped"
    detail = f"pair {pair_id} stands in an earlier row"
    if place == "duplicate_differs":
        detail += " with weight {:g} and margin {:g}; here they are {:g} and {:g}".format(*numbers)
    return detail


def _trimmed(edges: list[int], bins: dict[str, dict[int, int]]) -> dict[str, list[int]]:
    """Return the edges of the bins that are not empty in all sets, and each set's counts between them."""
    counts = np.array([list(one.values()) for one in bins.values()])
    filled = np.flatnonzero(counts.any(axis=0))
    first, last = (int(filled[0]), int(filled[-1]) + 1) if filled.size else (0, 1)
    return {
        "edges": edges[first : last + 1],
        **{name: row[first:last].tolist() for name, row in zip(bins, counts, strict=True)},
    }


def _numbers(totals: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """Return how many pairs have another number than the usual one, and the spread; nothing where none has."""
    if not totals[f"{name}_pairs"]:
        return {}
    spread = {
        "min": totals[f"{name}_min"],
        "mean": totals[f"{name}_sum"] / totals["pairs"],
        "max": totals[f"{name}_max"],
    }
    return {name: {"pairs": totals[f"{name}_pairs"], **{key: _rounded(value) for key, value in spread.items()}}}


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
