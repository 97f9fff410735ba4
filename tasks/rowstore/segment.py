"""One segment of a row store: an immutable Parquet file of keys and rows, named by the SHA-256 of its bytes.

A segment is written under a hidden name, synced, hashed and renamed: a file with a segment's name is whole, and
writing the same rows twice gives the same file. To open one does not hash it. Three checks stand against damage:

    the CRC-32 of a page, which Parquet verifies when it reads that page
    the lengths, which stand twice: as a column, and as the offsets of the values
    the SHA-256 in the name, for `python -m tasks.rowstore verify`

n is the number of rows, k the number of rows that are asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.core.errors import ArtifactError
from tasks.core.files import sha256_file
from tasks.core.ragged import Counts, spans

Keys = npt.NDArray[np.uint8]
Values = npt.NDArray[Any]
Block = tuple[Keys, Counts, Values]  # keys [n, 32], lengths [n], flat values

KEY_BYTES = 32
GROUP_VALUES = 1 << 18  # values of a row group: what is read at once for one row
MOST_GROUP_ROWS = 4096
SUFFIX = ".parquet"
_FORMAT = b"1"
_NAME = re.compile(r"[0-9a-f]{64}\.parquet")
_DRAFT = re.compile(r"\.[0-9]+-[0-9a-f]{16}\.draft")
_STALE_SECONDS = 86_400


def is_segment_name(name: str) -> bool:
    """Tell whether ``name`` has the form of a segment's: a SHA-256 in hex and `.parquet`."""
    return _NAME.fullmatch(name) is not None


def new_draft(folder: Path) -> Path:
    """Return a fresh hidden name in ``folder`` for a file that is not whole yet."""
    return folder / f".{os.getpid()}-{secrets.token_hex(8)}.draft"


def write_draft(folder: Path, kind: str, dtype: np.dtype[Any], blocks: Iterable[Block]) -> Path:
    """Write blocks of rows into a draft in ``folder``, one after the other, and sync it to the disk.

    Returns:
        The draft's path; :func:`publish` gives it its name.

    Raises:
        OSError: The disk is full, or refuses; no draft is left.
    """
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    draft, schema = new_draft(folder), _schema(kind, dtype)

    try:
        with draft.open("wb") as stream:
            options = {"compression": "zstd", "use_dictionary": False, "write_page_checksum": True}
            with pq.ParquetWriter(stream, schema, **options) as writer:
                for keys, lengths, flat in blocks:
                    rows = max(1, min(MOST_GROUP_ROWS, GROUP_VALUES * len(keys) // max(1, len(flat))))
                    writer.write_table(_table(schema, keys, lengths, flat), row_group_size=rows)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = error.filename or str(folder)  # pyarrow does not say where the disk is full
        raise

    return draft


def publish(draft: Path, name: str) -> Path:
    """Rename a draft to ``name``, durably; a segment of that name is replaced, for it holds the same bytes."""
    path = draft.with_name(name)
    draft.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return path


def name_of(draft: Path) -> str:
    """Return the name of the segment that a draft becomes: the SHA-256 of its bytes, read back from the file."""
    return sha256_file(draft) + SUFFIX


def sweep_drafts(folder: Path) -> None:
    """Remove the drafts that a killed process left: those older than a day."""
    horizon = time.time() - _STALE_SECONDS
    for path in [path for path in folder.iterdir() if _DRAFT.fullmatch(path.name)]:
        with contextlib.suppress(FileNotFoundError):
            if path.lstat().st_mtime < horizon:
                path.unlink()


def check_bytes(path: Path) -> None:
    """Compare a segment's bytes with the SHA-256 in its name.

    Raises:
        ArtifactError: They differ.
        FileNotFoundError: There is no such file.
    """
    with _opened(path) as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest + SUFFIX != path.name:
        raise _damaged(path, "its SHA-256 is not the one in its name")


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """An open segment: where each key's row lies, in 24 bytes a row; the rows stay on the disk.

    Attributes:
        path: The file.
        heads: uint64 [n], the first eight bytes of each key, ascending.
        rows: int64 [n], the row of each head.
        lengths: int64 [n], values of each row, in the file's order.
        group_ends: int64 [groups], the row behind each row group.
    """

    path: Path
    heads: npt.NDArray[np.uint64]
    rows: Counts
    lengths: Counts
    group_ends: Counts

    @classmethod
    def open(cls, path: Path, kind: str, dtype: np.dtype[Any]) -> Segment:
        """Read a file's keys and lengths; the values stay on the disk, unread.

        Raises:
            ArtifactError: The file is damaged, or does not hold rows of this kind.
            FileNotFoundError: There is no such file.
        """
        with _reading(path) as file:
            schema, expected = file.schema_arrow, _schema(kind, dtype)
            if not schema.equals(expected) or schema.metadata != expected.metadata:
                raise ArtifactError(f"{path} holds no rows of the kind `{kind}`", "delete it")
            table = file.read(columns=["key", "length"])
            groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]

        heads = heads_of(_keys(table))
        rows = np.argsort(heads, kind="stable")
        lengths = table.column("length").to_numpy().astype(np.int64)
        group_ends = np.cumsum(groups, dtype=np.int64)
        if len(lengths) != (group_ends[-1] if len(groups) else 0) or (lengths < 0).any():
            raise _damaged(path, "its row groups and its lengths disagree")
        return cls(path, heads[rows], rows, lengths, group_ends)

    def find(self, heads: npt.NDArray[np.uint64]) -> Counts:
        """Return the row of each of ``heads`` (uint64 [k]), -1 where there is none: int64 [k]."""
        if not len(self.heads):
            return np.full(len(heads), -1, np.int64)
        places = np.minimum(np.searchsorted(self.heads, heads), len(self.heads) - 1)
        return np.where(self.heads[places] == heads, self.rows[places], -1)

    def read(self, rows: Counts) -> Iterator[tuple[Counts, Keys, Values]]:
        """Read ``rows`` (int64 [k]) row group by row group.

        Yields:
            Places in ``rows`` int64 [j], the keys [j, 32] that stand there, and their values one after the other.

        Raises:
            ArtifactError: The file is damaged.
            FileNotFoundError: There is no such file any more.
        """
        group_of = np.searchsorted(self.group_ends, rows, side="right")
        starts = np.concatenate([np.zeros(1, np.int64), self.group_ends])
        order = np.argsort(group_of, kind="stable")

        with _reading(self.path) as file:
            for group in np.unique(group_of):
                places = order[np.searchsorted(group_of[order], group) : np.searchsorted(group_of[order], group + 1)]
                table = file.read_row_group(int(group))
                column = table.column("values").combine_chunks()
                offsets = column.offsets.to_numpy().astype(np.int64)
                if not np.array_equal(np.diff(offsets), self.lengths[starts[group] : starts[group + 1]]):
                    raise _damaged(self.path, "its values and its lengths disagree")

                within = rows[places] - starts[group]
                wanted = spans(offsets[within], self.lengths[rows[places]])
                yield places, _keys(table)[within], column.values.to_numpy(zero_copy_only=False)[wanted]

    def blocks(self) -> Iterator[Block]:
        """Yield every row, a row group at a time, in the file's order."""
        start = 0
        for end in self.group_ends.tolist():
            rows = np.arange(start, end)
            for _, keys, flat in self.read(rows):
                yield keys, self.lengths[start:end], flat
            start = end


def heads_of(keys: Keys) -> npt.NDArray[np.uint64]:
    """Return the first eight bytes of each key as a number: uint64 [n]."""
    return np.ascontiguousarray(keys[:, :8]).view("<u8").reshape(-1)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Open a Parquet file whose pages are checked against their CRC-32 when they are read.

    Raises:
        ArtifactError: pyarrow finds the file damaged.
        FileNotFoundError: There is no such file, or no longer.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with _opened(path) as stream:
            yield pq.ParquetFile(stream, page_checksum_verification=True)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _damaged(path, error) from None
    except OSError as error:
        if error.errno is None:  # pyarrow's own, for a page that fails its checksum
            raise _damaged(path, error) from None
        raise


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file; one that another machine removes from a network disk meanwhile is not found."""
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None


def _damaged(path: Path, why: object) -> ArtifactError:
    return ArtifactError(f"{path} is damaged: {why}", "delete it; its rows are computed anew")


def _schema(kind: str, dtype: np.dtype[Any]) -> Any:
    import pyarrow as pa

    values = pa.list_(pa.field("element", pa.from_numpy_dtype(dtype), nullable=False))
    fields = [("key", pa.binary(KEY_BYTES)), ("length", pa.int32()), ("values", values)]
    about = {b"rows": kind.encode(), b"format": _FORMAT}
    return pa.schema([pa.field(name, type_, nullable=False) for name, type_ in fields], metadata=about)


def _table(schema: Any, keys: Keys, lengths: Counts, flat: Values) -> Any:
    """Return rows as an Arrow table, sharing the memory of the values."""
    import pyarrow as pa

    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise ValueError("a block of rows holds at most 2^31 - 1 values")
    key_data = pa.py_buffer(np.ascontiguousarray(keys).tobytes())
    columns = [
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(KEY_BYTES), len(keys), [None, key_data]),
        pa.array(lengths.astype(np.int32)),
        pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(flat), type=schema.field("values").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _keys(table: Any) -> Keys:
    """Return a table's key column as uint8 [n, 32], without a loop over rows."""
    column = table.column("key").combine_chunks()
    data: Keys = np.frombuffer(column.buffers()[1], np.uint8)
    start = column.offset * KEY_BYTES
    return data[start : start + len(column) * KEY_BYTES].reshape(-1, KEY_BYTES)
