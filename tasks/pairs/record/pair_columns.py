"""Pairs on disk by columns: the short ones of every row, and whole records only of the rows that are asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.files import table_files
from tasks.pairs.record.parquet import SCHEMA, open_pairs

ROWS = 8192  # that are read at once
_SHORT = ("pair_id", "prompt_id", "prompt", "weight", "margin")


@dataclasses.dataclass(frozen=True, eq=False)
class PairColumns:
    """Some rows of a file of pairs, n of them.

    Attributes:
        pair_ids: S16 [n], the identity of each pair.
        prompt_ids: S16 [n], the identity of each pair's prompt.
        is_text: bool [n], whether the prompt is plain text, else it is messages.
        weights: float32 [n].
        margins: float32 [n].
        records: Returns the given rows with all columns, which are read when they are first asked for.
    """

    pair_ids: npt.NDArray[np.bytes_]
    prompt_ids: npt.NDArray[np.bytes_]
    is_text: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.float32]
    margins: npt.NDArray[np.float32]
    records: Callable[[Sequence[int]], list[dict[str, Any]]]

    def __len__(self) -> int:
        return len(self.pair_ids)


@dataclasses.dataclass(frozen=True)
class RowGroups:
    """Some row groups of a Parquet file of pairs, one after the other, which are not read yet.

    Attributes:
        path: The file.
        first: The number of the first one.
        end: That behind the last one.
    """

    path: Path
    first: int
    end: int

    def columns(self) -> PairColumns:
        """Read them.

        Raises:
            ArtifactError: The file is damaged.
        """
        with open_pairs(self.path) as file:
            return _columns(file, self.path, list(range(self.first, self.end)))


def stored_row_groups(path: Path, rows: int = ROWS) -> Iterator[RowGroups]:
    """Yield the row groups of a Parquet file of pairs, or of a folder of such files, about ``rows`` rows at a time.

    Raises:
        ArtifactError: It is not a file of pairs.
    """
    for each in table_files(path):
        with open_pairs(each) as file:
            counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        first = 0
        for end in range(1, len(counts) + 1):
            if sum(counts[first:end]) >= rows or end == len(counts):
                yield RowGroups(each, first, end)
                first = end


def stored_columns(path: Path, rows: int = ROWS) -> Iterator[PairColumns]:
    """Yield the pairs of a Parquet file, or of a folder of such files, about ``rows`` of a file at a time.

    Raises:
        ArtifactError: It is not a file of pairs.
    """
    return (groups.columns() for groups in stored_row_groups(path, rows))


def _columns(file: Any, path: Path, groups: list[int]) -> PairColumns:
    """Return the rows of some row groups of the file ``path``."""
    table = file.read_row_groups(groups, columns=list(_SHORT))
    whole: list[pa.Table] = []

    def records(rows: Sequence[int]) -> list[dict[str, Any]]:
        if not whole:
            with open_pairs(path) as again:  # a thread may read on in the other one
                whole.append(again.read_row_groups(groups, columns=SCHEMA.names))
        return whole[0].take(pa.array(rows, pa.int64())).to_pylist()  # type: ignore[no-any-return]

    return PairColumns(
        np.array(table["pair_id"].to_pylist(), "S16"),
        np.array(table["prompt_id"].to_pylist(), "S16"),
        pc.starts_with(table["prompt"], '"').to_numpy(),
        table["weight"].to_numpy().astype(np.float32),
        table["margin"].to_numpy().astype(np.float32),
        records,
    )
