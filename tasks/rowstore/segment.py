"""One segment of a row store: an immutable Parquet file of keys and rows, named by the SHA-256 of its bytes.

A segment is written under a hidden name, synced, hashed and renamed: a file with a segment's name is whole, and
writing the same rows twice gives the same file. To open one does not hash it. Three checks stand against damage:

    the CRC-32 of a page, which Parquet verifies when it reads that page
    the lengths, which stand twice: as a column, and as the offsets of the values
    the SHA-256 in the name, for `python -m tasks.upkeep verify`

n is the number of rows, k the number of rows that are asked for.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.core.background import ahead
from tasks.core.errors import ArtifactError
from tasks.core.ragged import Counts, take

Keys = npt.NDArray[np.uint8]
Values = npt.NDArray[Any]
Block = tuple[Keys, Counts, Values]  # keys [n, 32], lengths [n], flat values

KEY_BYTES = 32
GROUP_VALUES = 1 << 18  # values of a row group: what is read at once for one row
MOST_GROUP_ROWS = 4096
SUFFIX = ".parquet"
NAME = re.compile(r"[0-9a-f]{64}\.parquet")


@contextlib.contextmanager
def draft_in(folder: Path) -> Iterator[Path]:
    """Give a hidden path in ``folder`` for a file that is not whole yet; at the end, remove it if it is still there."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{os.getpid()}-{secrets.token_hex(8)}.draft"
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def write_rows(draft: Path, kind: str, dtype: np.dtype[Any], blocks: Iterable[Block]) -> None:
    """Write blocks of rows into a file, one after the other, and sync it to the disk."""
    import pyarrow.parquet as pq

    schema = _schema(kind, dtype)
    options = {"compression": "zstd", "use_dictionary": False, "write_page_checksum": True}
    try:
        with draft.open("wb") as stream:
            with pq.ParquetWriter(stream, schema, **options) as writer:
                for keys, lengths, flat in blocks:
                    rows = max(1, min(MOST_GROUP_ROWS, GROUP_VALUES * len(keys) // max(1, len(flat))))
                    writer.write_table(_table(schema, keys, lengths, flat), row_group_size=rows)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        error.filename = error.filename or str(draft.parent)  # pyarrow does not say where the disk is full
        raise


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to the disk, so that a renamed file is there after a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Segment:
    """An open segment: where each key's row lies, in 24 bytes a row; the values stay on the disk, unread.

    Attributes:
        path: The file.
        heads: uint64 [n], the first eight bytes of each key, ascending.
        rows: int64 [n], the row of each head.
        lengths: int64 [n], values of each row, in the file's order.

    Raises:
        ArtifactError: The file is damaged, or does not hold rows of this kind.
        FileNotFoundError: There is no such file.
    """

    def __init__(self, path: Path, kind: str, dtype: np.dtype[Any]) -> None:
        self.path = path
        with _reading(path) as file:
            schema, expected = file.schema_arrow, _schema(kind, dtype)
            if not schema.equals(expected) or schema.metadata != expected.metadata:
                raise ArtifactError(f"{path} holds no rows of the kind `{kind}`", "delete it")
            table = file.read(columns=["key", "length"])
            groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]

        self.lengths: Counts = table.column("length").to_numpy().astype(np.int64)
        if not len(self.lengths) == sum(groups) > 0 or (self.lengths < 0).any():
            raise damaged(path, "its row groups and its lengths disagree")
        heads = heads_of(_keys(table))
        self.rows: Counts = np.argsort(heads, kind="stable")
        self.heads = heads[self.rows]
        self._group_ends = np.cumsum(groups, dtype=np.int64)

    def find(self, heads: npt.NDArray[np.uint64]) -> Counts:
        """Return the row of each of ``heads`` (uint64 [k]), -1 where there is none: int64 [k]."""
        places = np.minimum(np.searchsorted(self.heads, heads), len(self.heads) - 1)
        return np.where(self.heads[places] == heads, self.rows[places], -1)

    def read(self, rows: Counts) -> Iterator[tuple[Counts, Keys, Values]]:
        """Read ``rows`` (int64 [k]) row group by row group.

        Yields:
            Places in ``rows`` int64 [j], the keys [j, 32] that stand there, and their values one after the other.

        Raises:
            ArtifactError: The file is damaged.
            OSError: It is gone, or the disk refuses.
        """
        if not len(rows):
            return
        group_of = np.searchsorted(self._group_ends, rows, side="right")
        groups, sizes = np.unique(group_of, return_counts=True)
        places_by_group = np.split(np.argsort(group_of, kind="stable"), np.cumsum(sizes)[:-1])
        starts = np.concatenate([np.zeros(1, np.int64), self._group_ends])

        with _reading(self.path) as file:
            tables = ahead(map(file.read_row_group, groups.tolist()))
            for table, group, places in zip(tables, groups, places_by_group, strict=True):
                column = table.column("values").combine_chunks()
                offsets = column.offsets.to_numpy().astype(np.int64)
                if not np.array_equal(np.diff(offsets), self.lengths[starts[group] : starts[group + 1]]):
                    raise damaged(self.path, "its values and its lengths disagree")

                within = rows[places] - starts[group]
                values = column.values.to_numpy(zero_copy_only=False)
                yield places, _keys(table)[within], take(values, offsets[within], self.lengths[rows[places]])


def heads_of(keys: Keys) -> npt.NDArray[np.uint64]:
    """Return the first eight bytes of each key as a number: uint64 [n]."""
    return np.ascontiguousarray(keys[:, :8]).view("<u8").reshape(-1)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Open a Parquet file whose pages are checked against their CRC-32 when they are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as stream:
            yield pq.ParquetFile(stream, page_checksum_verification=True)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise damaged(path, error) from None
    except OSError as error:
        if error.errno is None:  # pyarrow's own, for a page that fails its checksum
            raise damaged(path, error) from None
        raise


def damaged(path: Path, why: object) -> ArtifactError:
    """Return the error that says that a segment is damaged."""
    return ArtifactError(f"{path} is damaged: {why}", "delete it; its rows are computed anew")


def _schema(kind: str, dtype: np.dtype[Any]) -> Any:
    import pyarrow as pa

    values = pa.list_(pa.field("element", pa.from_numpy_dtype(dtype), nullable=False))
    columns = [("key", pa.binary(KEY_BYTES)), ("length", pa.int32()), ("values", values)]
    fields = [pa.field(name, type_, nullable=False) for name, type_ in columns]
    return pa.schema(fields, metadata={b"rows": kind.encode(), b"format": b"1"})


def _table(schema: Any, keys: Keys, lengths: Counts, flat: Values) -> Any:
    import pyarrow as pa

    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    key_data = pa.py_buffer(np.ascontiguousarray(keys).tobytes())
    columns = [
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(KEY_BYTES), len(keys), [None, key_data]),
        pa.array(lengths, pa.int32()),
        pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat), type=schema.field("values").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _keys(table: Any) -> Keys:
    """Return a table's key column as uint8 [n, 32], without a loop over rows."""
    column = table.column("key").combine_chunks()
    keys: Keys = np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, KEY_BYTES)
    return keys[column.offset : column.offset + len(column)]
