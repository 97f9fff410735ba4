"""Tables of Apache Arrow: Parquet files, and Arrow IPC files and streams (Feather)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from tasks.pairs.raw.raw_row import BLOCK_BYTES, Block, FormatError, RawRow

_ROWS_AT_ONCE = 1024
_FILE_MAGIC, _FEATHER_1_MAGIC = b"ARROW1", b"FEA1"


@dataclasses.dataclass(frozen=True)
class ArrowRows:
    """Rows of an Arrow table.

    Attributes:
        name: What `where` calls the file.
        form: What the file is, for messages.
        first: The number of the first row.
        data: The record batches, as an IPC stream.
    """

    name: str
    form: str
    first: int
    data: bytes

    def rows(self) -> Iterator[RawRow]:
        """Yield the rows; one with a cell that cannot be read is a row with a fault.

        Raises:
            FormatError: The values are damaged.
        """
        import pyarrow as pa

        number = self.first
        with _readable(self.form):
            for batch in pa.ipc.open_stream(self.data):
                for value, fault in _values(batch):
                    yield RawRow(f"{self.name}:{number}", value, fault)
                    number += 1


def read_parquet(stream: IO[bytes], name: str) -> Iterator[Block]:
    """Yield the rows of a Parquet file.

    Raises:
        FormatError: It is not readable as such.
    """
    import pyarrow.parquet as pq

    yield from arrow_blocks(lambda: pq.ParquetFile(stream).iter_batches(batch_size=_ROWS_AT_ONCE), name, "Parquet")


def read_arrow(stream: IO[bytes], name: str) -> Iterator[Block]:
    """Yield the rows of an Arrow IPC file or stream, which is also Feather's second version.

    Raises:
        FormatError: It is not readable as such.
    """
    magic = stream.read(len(_FILE_MAGIC))
    stream.seek(0)
    if magic.startswith(_FEATHER_1_MAGIC):
        raise FormatError("is of Feather's first version", "write it again as Parquet")
    yield from arrow_blocks(lambda: _ipc_batches(stream, magic == _FILE_MAGIC), name, "Arrow")


def _ipc_batches(stream: IO[bytes], is_file: bool) -> Iterator[Any]:
    import pyarrow as pa

    reader = pa.ipc.open_file(stream) if is_file else pa.ipc.open_stream(stream)
    batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
    for batch in batches:
        batch.validate(full=True)  # Arrow reads damaged offsets as they stand, beyond the memory it has
        yield batch


def arrow_blocks(open_batches: Callable[[], Iterable[Any]], name: str, form: str) -> Iterator[Block]:
    """Yield the rows of Arrow's record batches in blocks, numbered from 1; ``form`` is what they are, for messages.

    Raises:
        FormatError: They are not readable.
    """
    number, waiting, size = 1, [], 0
    with _readable(form):
        for batch in open_batches():
            if len(set(batch.schema.names)) != len(batch.schema.names):
                raise FormatError("names a column twice", "rename one of them")
            for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                waiting.append(batch.slice(start, _ROWS_AT_ONCE))
                size += waiting[-1].nbytes
                if size >= BLOCK_BYTES:
                    yield ArrowRows(name, form, number, _ipc_stream(waiting))
                    number += sum(part.num_rows for part in waiting)
                    waiting, size = [], 0
        if waiting:
            yield ArrowRows(name, form, number, _ipc_stream(waiting))


def _ipc_stream(batches: list[Any]) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue())


@contextlib.contextmanager
def _readable(form: str) -> Iterator[None]:
    """Turn Arrow's errors into one of ours."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FormatError(f"is not a readable {form} file ({reason})", "fetch or write it again") from None


def _values(batch: Any) -> Iterator[tuple[Any, str | None]]:
    """Yield each row's value and fault; a cell that Python cannot hold is no reason to lose another row."""
    import pyarrow as pa

    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError, ArithmeticError, pa.ArrowException):
        rows = None
    if rows is not None:
        yield from ((row, None) for row in rows)
        return
    for number in range(batch.num_rows):
        try:
            yield {column: _plain(batch.column(i)[number]) for i, column in enumerate(batch.schema.names)}, None
        except (ValueError, OverflowError, ArithmeticError, pa.ArrowException) as error:
            yield None, f"a cell cannot be read ({type(error).__name__})"


def _plain(cell: Any) -> Any:
    """Return an Arrow scalar as a Python value; a time that Python's calendar does not hold as its number of units."""
    import pyarrow as pa

    try:
        return cell.as_py()
    except (ValueError, OverflowError, ArithmeticError, pa.ArrowException):
        if isinstance(cell, pa.StructScalar):
            return {name: _plain(item) for name, item in cell.items()}
        if isinstance(cell, pa.ListScalar):
            return [_plain(item) for item in cell.values]
        if not pa.types.is_temporal(cell.type):
            raise
        return cell.value
