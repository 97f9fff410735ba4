"""Pairs on disk: Parquet with one schema, written and read in batches; a split is a folder of such files."""

from __future__ import annotations

import contextlib
import operator
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import ArtifactError
from tasks.core.files import table_files
from tasks.pairs.record.pair import Pair, prompt_of

BATCH = 2048  # pairs; bounds memory

SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),  # JSON: a text, or a list of messages
        pa.field("chosen", pa.string(), nullable=False),
        pa.field("rejected", pa.string(), nullable=False),
        pa.field("slice", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
        pa.field("margin", pa.float64(), nullable=False),
        pa.field("chosen_extra", pa.string(), nullable=False),  # JSON of an object, or empty; so are the next two
        pa.field("rejected_extra", pa.string(), nullable=False),
        pa.field("inputs", pa.string(), nullable=False),
    ]
)
_COLUMNS = tuple(name for name in SCHEMA.names if name not in ("pair_id", "prompt_id", "prompt"))  # of a pair
_VALUES = operator.attrgetter("pair_id", "prompt_id", "content_json", *_COLUMNS)


def _forgo_pandas() -> None:
    """Keep Arrow from importing pandas with its first array, which takes 0.2 s: nothing here converts to pandas."""

    class NoPandas(MetaPathFinder):
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "pandas":
                raise ModuleNotFoundError

    finder = NoPandas()
    sys.meta_path.insert(0, finder)
    pa.array([])  # looks for pandas, once for all
    sys.meta_path.remove(finder)


_forgo_pandas()


def from_record(record: dict[str, Any]) -> Pair:
    """Return the pair that a row of :data:`SCHEMA` holds."""
    return Pair(prompt_of(record["prompt"]), **{name: record[name] for name in _COLUMNS})


class TableWriter:
    """Writes record batches to one Parquet file, small ones together; a context manager.

    Args:
        path: The file.
        schema: Its columns.
        batch: Rows that become one row group.
    """

    def __init__(self, path: Path, schema: pa.Schema, batch: int = BATCH) -> None:
        self.schema, self._most = schema, batch
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0  # of the batches

    def append_batch(self, batch: pa.RecordBatch) -> None:
        """Add rows that have this file's schema; they reach the disk with those of other batches."""
        self._batches.append(batch)
        self._rows += batch.num_rows
        if self._rows >= self._most:
            self._flush()

    def describe(self, metadata: dict[str, str]) -> None:
        """Add metadata to the file."""
        self._writer.add_key_value_metadata(metadata)

    def _flush(self) -> None:
        if self._batches:
            self._writer.write_table(pa.Table.from_batches(self._batches))
            self._batches, self._rows = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._writer.close()


class PairWriter(TableWriter):
    """Writes pairs to one Parquet file; a context manager.

    Args:
        path: The file.
        extra: Columns behind those of :data:`SCHEMA`.
        batch: Pairs that become one row group.
    """

    def __init__(self, path: Path, extra: Sequence[pa.Field] = (), batch: int = BATCH) -> None:
        super().__init__(path, pa.schema([*SCHEMA, *extra]), batch)
        self._waiting: list[tuple[Any, ...]] = []

    def append(self, pair: Pair, *extra: Any) -> None:
        """Add a pair and its values of the extra columns; it reaches the disk with its batch."""
        self._waiting.append(_VALUES(pair) + extra)
        if len(self._waiting) >= self._most:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            columns = zip(*self._waiting, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
            self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self.schema))
            self._waiting = []
        super()._flush()


@contextlib.contextmanager
def open_pairs(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file of pairs.

    Raises:
        ArtifactError: It is not one.
    """
    try:
        # pre_buffer would keep the bytes of the whole file in memory until its end
        with pq.ParquetFile(path, pre_buffer=False) as table:
            missing = [name for name in SCHEMA.names if name not in table.schema_arrow.names]
            if missing:
                raise ArtifactError(
                    f"{path} has no column `{missing[0]}`", "delete its folder and run `dvc repro ingest`"
                )
            yield table
    except pa.ArrowException as error:
        raise ArtifactError(
            f"{path} is not readable Parquet ({error})", "delete its folder and run `dvc repro ingest`"
        ) from None


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of a Parquet file of pairs, or of a folder of such files.

    Raises:
        ArtifactError: It is not one.
    """
    for file in table_files(path):
        with open_pairs(file) as table:
            yield from table.iter_batches(batch_size=BATCH)


def count_pairs(path: Path) -> int:
    """Return how many pairs a Parquet file of pairs, or a folder of such files, holds, from the footers."""
    return sum(pq.read_metadata(file).num_rows for file in table_files(path))


def stored_pairs(path: Path) -> Iterator[list[Pair]]:
    """Yield the pairs of a Parquet file, or of a folder of such files, in batches.

    Raises:
        ArtifactError: It is not a file of pairs.
    """
    for batch in read_batches(path):
        yield [from_record(record) for record in batch.to_pylist()]


def keep_rows(batch: pa.RecordBatch, wanted: npt.NDArray[np.bool_]) -> pa.RecordBatch:
    """Return the rows of a batch where ``wanted`` is true, in :data:`SCHEMA`'s columns."""
    rows = batch.select(SCHEMA.names).filter(pa.array(wanted, type=pa.bool_()))
    return pa.RecordBatch.from_arrays(rows.columns, schema=SCHEMA)
