"""Files of rows: JSON lines, JSON arrays, Parquet and CSV, the text forms also gzipped.

A line that is broken by itself becomes a row with a fault and reading goes on; a file that cannot be
trusted as a whole (truncated, undecodable, empty) is refused.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from tasks.core.errors import DataError

_LONGEST_CELL = 1 << 28  # characters; the csv module's own limit of 131,072 is shorter than a long reply


@dataclasses.dataclass(frozen=True)
class RawRow:
    """One row as it was read: where it is, its value, and its fault (None: it has none)."""

    where: str
    value: Any
    fault: str | None = None


def read_rows(path: Path, name: str) -> Iterator[RawRow]:
    """Yield the rows of a file; ``name`` is what `where` calls the file.

    Raises:
        DataError: The file is absent, of an unknown form, empty, truncated or not readable as its form.
    """
    check_readable(path)
    reader = _READERS[_form(path)]
    count = 0
    try:
        for row in reader(path, name):
            count += 1
            yield row
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged or truncated gzip file ({error})", "fetch it again") from None
    except UnicodeDecodeError as error:
        what = f"{path} is not UTF-8 text: byte 0x{error.object[error.start]:02x} at row {count + 1}"
        raise DataError(what, "convert it to UTF-8, or name the file by what it is") from None
    except csv.Error as error:
        raise DataError(f"{path} is not a readable CSV file ({error})", "correct or convert it") from None
    if count == 0:
        raise DataError(f"{path} is empty: it holds no rows", "take it out of `ingest.sources`, or fetch it again")


def check_readable(path: Path) -> None:
    """Refuse a path that is no file, or whose name does not say which form it has.

    Raises:
        DataError: Saying what is there instead.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder", f'name its files in `ingest.sources`, such as "{path}/*.jsonl.gz"')
    if not path.is_file():
        raise DataError(f"{path} is missing", "correct `ingest.sources`, or put the file there")
    if _form(path) not in _READERS or path.name.endswith(".parquet.gz"):
        raise DataError(f"{path} has no known form", "use .jsonl, .json or .csv (also with .gz), or .parquet")


def _form(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _open_bytes(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _json_lines(path: Path, name: str) -> Iterator[RawRow]:
    """Yield a row a line; only line feeds end a line, for a JSON string may hold other separators."""
    with _open_bytes(path) as stream:
        for number, text in enumerate(_text_lines(stream), start=1):
            if text.strip():
                yield _parse(text.rstrip(), f"{name}:{number}")


def _parse(text: str, where: str) -> RawRow:
    try:
        return RawRow(where, json.loads(text))
    except json.JSONDecodeError as error:
        return RawRow(where, None, f"{error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return RawRow(where, None, f"{type(error).__name__} in the JSON")


def _json_document(path: Path, name: str) -> Iterator[RawRow]:
    """Yield the items of a JSON array; a file of JSON lines under this name is taken as such."""
    with _open_bytes(path) as stream:
        text = stream.read().decode("utf-8-sig")
    if not text.lstrip().startswith("["):
        yield from _json_lines(path, name)
        return
    whole = _parse(text, name)
    if whole.fault:
        raise DataError(f"{path} is not a whole JSON array ({whole.fault})", "fetch it again, or write JSON lines")
    yield from (RawRow(f"{name}:{number}", row) for number, row in enumerate(whole.value, start=1))


def _parquet(path: Path, name: str) -> Iterator[RawRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield RawRow(f"{name}:{number}", row)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is not a readable Parquet file ({reason})", "fetch or write it again") from None


def _csv(path: Path, name: str) -> Iterator[RawRow]:
    """Yield a row of named cells for each record; `where` holds the number of its last line."""
    csv.field_size_limit(_LONGEST_CELL)
    with _open_bytes(path) as stream:
        reader = csv.reader(_text_lines(stream), strict=True)
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise DataError(f"{path} names a column twice in its first line", "rename one of them")
        for cells in reader:
            where = f"{name}:{reader.line_num}"
            if len(cells) == len(header):
                yield RawRow(where, dict(zip(header, cells, strict=True)))
            elif cells:
                yield RawRow(where, None, f"{len(cells)} cells under {len(header)} column names")


def _text_lines(stream: IO[bytes]) -> Iterator[str]:
    for number, line in enumerate(stream):
        yield line.decode("utf-8" if number else "utf-8-sig")


_READERS: dict[str, Callable[[Path, str], Iterator[RawRow]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_document,
    ".parquet": _parquet,
    ".csv": _csv,
}
