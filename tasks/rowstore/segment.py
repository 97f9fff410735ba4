"""One segment of a row store: an immutable Parquet file of keys and rows, named by the hash of its bytes.

A segment is written under a hidden name, synced and renamed, so that a file with a segment's name is
whole; its name is the SHA-256 of what it holds, so that writing it twice is harmless and damage shows.
n is the number of rows, k the number of those that are asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
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
    """Return a fresh hidden name in ``folder`` for what is not whole yet."""
    return folder / f".{os.getpid()}-{secrets.token_hex(8)}.draft"


def write_draft(folder: Path, kind: str, dtype: np.dtype[Any], blocks: Iterable[Block]) -> Path:
    """Write blocks of rows into a draft in ``folder``, one after the other, and see it safe on the disk.

    Returns:
        The draft's path; :func:`publish` gives it its name.

    Raises:
        OSError: The disk is full, or refuses; no draft is left.
    """
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    draft = new_draft(folder)
    schema = _schema(kind, dtype)
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
            error.filename = error.filename or str(folder)  # a write on a full disk does not say where
        raise
    return draft


def publish(draft: Path, name: str) -> Path:
    """Give a draft its name, durably; a segment of that name holds the same bytes and is replaced."""
    path = draft.with_name(name)
    draft.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return path


def name_of(draft: Path) -> str:
    """Return the name that a draft's bytes give it."""
    return sha256_file(draft) + SUFFIX


def sweep_drafts(folder: Path) -> None:
    """Remove the drafts that nobody can be writing any more: those of a day ago."""
    horizon = time.time() - _STALE_SECONDS
    for path in [path for path in folder.iterdir() if _DRAFT.fullmatch(path.name)]:
        with contextlib.suppress(FileNotFoundError), stale_is_gone():
            if path.lstat().st_mtime < horizon:
                path.unlink()


@contextlib.contextmanager
def stale_is_gone() -> Iterator[None]:
    """Take `ESTALE` for what it tells: on a network disk, that another machine removed the file, open or not."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), error.filename) from None


def remove(path: Path) -> None:
    """Remove a file that somebody else may have removed before."""
    with contextlib.suppress(FileNotFoundError), stale_is_gone():
        path.unlink()


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
        """Check the file's bytes against its name and read its keys.

        Raises:
            ArtifactError: The file is damaged, or holds something else than rows of this kind.
            FileNotFoundError: It is gone.
        """
        with stale_is_gone():
            digest = sha256_file(path)
        if digest + SUFFIX != path.name:
            raise ArtifactError(f"{path} is damaged: its bytes are not those that it is named after", "delete it")
        with _reading(path) as file:
            found, expected = file.schema_arrow, _schema(kind, dtype)
            if not found.equals(expected) or found.metadata != expected.metadata:
                raise ArtifactError(f"{path} holds no rows of the kind `{kind}`", "delete it")
            table = file.read(columns=["key", "length"])
            groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        heads = heads_of(_keys(table))
        rows = np.argsort(heads, kind="stable")
        lengths = table.column("length").to_numpy().astype(np.int64)
        return cls(path, heads[rows], rows, lengths, np.cumsum(groups, dtype=np.int64))

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
            ArtifactError: The file changed under our hands.
            FileNotFoundError: It is gone.
        """
        group_of = np.searchsorted(self.group_ends, rows, side="right")
        starts = np.concatenate([np.zeros(1, np.int64), self.group_ends])
        order = np.argsort(group_of, kind="stable")
        with _reading(self.path) as file:
            for group in np.unique(group_of):
                places = order[np.searchsorted(group_of[order], group) : np.searchsorted(group_of[order], group + 1)]
                own = rows[places] - starts[group]
                table = file.read_row_group(int(group))
                column = table.column("values").combine_chunks()
                begins = column.offsets.to_numpy()[own].astype(np.int64)
                taken = spans(begins, self.lengths[rows[places]])
                yield places, _keys(table)[own], column.values.to_numpy(zero_copy_only=False)[taken]

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
    """Open a Parquet file, its pages' checksums verified; what pyarrow finds wrong is an :class:`ArtifactError`.

    Raises:
        FileNotFoundError: It is gone, or goes while it is read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with stale_is_gone(), path.open("rb") as stream:
            yield pq.ParquetFile(stream, page_checksum_verification=True)
    except pa.ArrowException as error:
        raise ArtifactError(f"{path} is damaged ({error})", "delete it") from None
    except OSError as error:
        if error.errno is None:  # pyarrow's own, for a page that does not have its checksum
            raise ArtifactError(f"{path} is damaged ({error})", "delete it") from None
        raise


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
