"""What becomes of each pair that was read, decided by queries over the keys of all of them.

DuckDB sorts and joins the keys within a fixed amount of memory, a share of them at a time, and uses the disk beyond it.
So memory does not grow with the rows, apart from one byte a row for the answer.
"""

from __future__ import annotations

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
from tasks.core.files import table_files
from tasks.pairs.ingestion.selection import PLACES, SIDES, Selection, make_places, pattern, shares_of
from tasks.pairs.ingestion.split import check_sides
from tasks.pairs.record.rejection import Rejection

LENGTHS = ("prompt", "chosen", "rejected")

_MEMORY = 48 << 20  # bytes; in one thread, for each needs memory of its own
_MOST_SLICES = 50  # more groups than that are an identifier rather than a slice, and would flood the metrics
_LENGTH_EDGES = [0, *sorted({round(10 ** (step / 10)) for step in range(61)})]  # ten bins a decade, up to a million
_NUMBER_BINS = 20  # of weights and margins, about so many

_REJECTED = """
SELECT source, place, pair_id, first_weight, first_margin, weight * factor, margin
FROM read_parquet($spill) POSITIONAL JOIN places JOIN entries USING (entry) WHERE place IN (2, 3, 4, 6, 7)
ORDER BY greatest(place, 3), ordinal
"""
# Of a share of the prompts, or of their wordings.
_PROMPTS = """
SELECT count(*) FILTER (low = 0) AS train, count(*) FILTER (high = 1) AS test, count(*) FILTER (low <> high) AS both
FROM (SELECT {key}, min(place) AS low, max(place) AS high FROM read_parquet($spill) POSITIONAL JOIN places
      WHERE place < 2 AND in_share({key}, $share, $shares) GROUP BY {key})
"""
# The first pass wrote the lengths: long texts read here would not fit into the memory limit.
# `histogram` counts up to and including each bound, and these bins leave their upper bound out.
_BINS = ", ".join(
    f"sum({name}_length) AS {name}, histogram(least({name}_length, $edges[-1] - 1) + 1, $edges[2:]) AS {name}_bins"
    for name in LENGTHS
)
_LENGTH_STATISTICS = f"""
SELECT {_BINS}, count(*) FILTER (chosen_length > rejected_length) AS longer
FROM read_parquet($spill) POSITIONAL JOIN places WHERE place < 2
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
        near: How many prompts are near-duplicates of earlier ones.
        factors: float64 [entries], what the weights of each entry's pairs are multiplied by.
    """

    def __init__(self, spill: Path, selection: Selection) -> None:
        """Decide about every row of ``spill``.

        Args:
            spill: Pairs with the columns of :data:`tasks.pairs.ingestion.two_passes.KEYS`. DuckDB's own temporary files
                go beside it.
            selection: What is kept, and on which side.

        Raises:
            DataError: A source's weight makes a row's weight no normal number of 32 bits.
        """
        self._spill, self._shares = pattern(spill), shares_of(spill)
        self._temporary = spill.with_suffix(".tmp")
        self._database = duckdb.connect(
            config={
                "memory_limit": f"{_MEMORY}B",
                "threads": 1,
                "temp_directory": str(self._temporary),
                "autoinstall_known_extensions": False,
            }
        )
        self.factors: npt.NDArray[np.float64] = np.array([entry.weight for entry in selection.entries])
        self.near = make_places(self._execute, spill, selection)

        self.places: npt.NDArray[np.uint8] = np.asarray(self._execute("SELECT place FROM places").fetchnumpy()["place"])
        numbers = np.bincount(self.places, minlength=len(PLACES)).tolist()
        self.counts = Counter(dict(zip(PLACES, numbers, strict=True)))
        self.contradictory: int = self._row("SELECT count(*) AS pairs FROM contradicting")["pairs"]

    def rejections(self) -> Iterator[Rejection]:
        """Yield the duplicates, the contradictions, then what stands on neither side, each in the order of the rows."""
        answer = self._execute(_REJECTED, spill=self._spill)
        while rows := answer.fetchmany(1024):
            for source, place, pair_id, *numbers in rows:
                yield Rejection(source, PLACES[place], _detail(PLACES[place], pair_id, numbers))

    def check_sides(self, test_share: float, rejected: Counter[str]) -> None:
        """Refuse places that leave no pair to train on, or none to test on.

        Raises:
            DataError: Saying which side is empty, and by what.
        """
        train, test = (self.counts[side] for side in SIDES)
        check_sides(train, test, test_share, self.counts + rejected + Counter(near=self.near))

    def statistics(self, folder: Path) -> dict[str, Any]:
        """Return the metrics of the folders `train.parquet` and `test.parquet` in ``folder``.

        Raises:
            AssertionError: A prompt stands on both sides, or two whose words are the same do.
        """
        for number, side in enumerate(SIDES):
            rows = self._database.read_parquet([pattern(file) for file in table_files(folder / f"{side}.parquet")])
            rows.project(f"{number} AS side, *").create_view(side, replace=True)
        self._execute("CREATE OR REPLACE TEMP VIEW kept AS FROM train UNION ALL FROM test")
        prompts, wordings = self._count_prompts("prompt_key"), self._count_prompts("split_key")
        if prompts.pop("both") or wordings.pop("both"):
            raise AssertionError("a prompt stands on both sides of the split")

        totals = self._row(_STATISTICS)
        lengths = self._row(_LENGTH_STATISTICS, spill=self._spill, edges=_LENGTH_EDGES)
        pairs = max(totals["pairs"], 1)
        slices = self._execute(_SLICES, most=_MOST_SLICES).fetchall()
        return {
            "pairs": {side: self.counts[side] for side in SIDES},
            "prompts": prompts,
            "near_duplicates": {"words": sum(prompts.values()) - sum(wordings.values()), "minhash": self.near},
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

    def _count_prompts(self, key: str) -> Counter[str]:
        """Return how many distinct values of a key train, test, and both have."""
        counts: Counter[str] = Counter(train=0, test=0, both=0)
        for share in self._shares:
            counts.update(self._row(_PROMPTS.format(key=key), spill=self._spill, share=share, shares=len(self._shares)))
        return counts

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

    def _execute(self, query: str, *listed: Any, **values: Any) -> duckdb.DuckDBPyConnection:
        try:
            return self._database.execute(query, listed or values)
        except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
            reason = str(error).splitlines()[0]
            raise StorageError(
                f"sorting the keys of the pairs failed ({reason})", "free some space and run again"
            ) from None


def _detail(place: str, pair_id: str, numbers: list[float]) -> str:
    if place == "in_test_source":
        return f"the prompt of pair {pair_id} stands in a source with `split: test`"
    if place == "near_both_sides":
        return f"the prompt of pair {pair_id} is nearly the same as prompts of train and of test"
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
