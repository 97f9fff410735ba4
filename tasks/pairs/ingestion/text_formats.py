"""Text that holds rows: JSON lines, JSON documents, and tables with a separator."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import re
from collections.abc import Iterator
from typing import IO

from tasks.pairs.ingestion.json_documents import WHOLE_BYTES, not_utf8, parse_json, read_document, rows_of, wraps_rows
from tasks.pairs.raw.raw_row import BLOCK_BYTES, Block, FormatError, RawRow
from tasks.telemetry.log import get_logger

_LONGEST_CELL = 1 << 28  # characters; the csv module's own limit of 131,072 is shorter than a long reply
_BOM = b"\xef\xbb\xbf"
_UNFINISHED = (b"[", b"{", b",")  # how the first line of a document that runs over several lines ends
_CARRIAGE_RETURNS = (
    "ends its lines with carriage returns alone",
    "write line feeds in their place, such as by `tr '\\r' '\\n' < FILE > NEW`",
)
_SEPARATORS = (",", "\t", ";", "|")

_log = get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class JsonLines:
    """Lines of JSON: a row each, unless they are blank.

    Attributes:
        name: What `where` calls the file.
        first: The number of the first line.
        data: The lines.
    """

    name: str
    first: int
    data: bytes

    def rows(self) -> Iterator[RawRow]:
        """Yield the rows; a broken line is a row with a fault.

        Raises:
            FormatError: A line is no UTF-8.
        """
        # only line feeds end a line, for a JSON string may hold other separators
        for number, line in enumerate(self.data.split(b"\n"), start=self.first):
            if line and not line.isspace():
                try:
                    yield parse_json(line, f"{self.name}:{number}")
                except UnicodeDecodeError as error:
                    raise not_utf8(error, f"line {number}") from None


@dataclasses.dataclass(frozen=True)
class Records:
    """Records of a table with a separator.

    Attributes:
        name: What `where` calls the file.
        header: The names of the columns.
        records: The number of each record's last line, and its cells.
    """

    name: str
    header: tuple[str, ...]
    records: tuple[tuple[int, list[str]], ...]

    def rows(self) -> Iterator[RawRow]:
        """Yield the rows; a record with too many or too few cells is a row with a fault."""
        for number, cells in self.records:
            where = f"{self.name}:{number}"
            if len(cells) == len(self.header):
                yield RawRow(where, dict(zip(self.header, cells, strict=True)))
            else:
                yield RawRow(where, None, f"{len(cells)} cells under {len(self.header)} column names")


def read_json(stream: IO[bytes], name: str, lines: bool) -> Iterator[Block]:
    """Yield the rows of JSON lines, of an array, or of an object that wraps a list of rows.

    Args:
        stream: The bytes.
        name: What `where` calls the file.
        lines: Whether the file's name promises JSON lines: a broken line is then a row with a fault.

    Raises:
        FormatError: The text is one document, and a broken one, lines end with carriage returns alone, or the bytes
            are no UTF-8.
    """
    first, before = _next_line(stream, mark=_BOM)
    if not first:
        return
    if not first.endswith(b"\n") and len(first) >= WHOLE_BYTES - len(_BOM):
        if first.lstrip().startswith(b"[") or wraps_rows(first):
            yield from read_document(first, stream, name)
            return
        first += stream.readline()
    second, between = _next_line(stream)

    try:
        alone, text = parse_json(first, ""), first.strip()
    except UnicodeDecodeError as error:
        raise not_utf8(error, f"line {before + 1}") from None
    if alone.fault and not second and b"\r" in text and not parse_json(text.partition(b"\r")[0], "").fault:
        raise FormatError(*_CARRIAGE_RETURNS)
    over_several = text.startswith(b"[") or text.endswith(_UNFINISHED)
    if alone.fault and ((second and over_several) or (not second and not lines)):
        yield from read_document(first + second, stream, name)
    elif not second and not alone.fault and rows_of(alone.value, name) is not None:
        yield from read_document(first, stream, name)
    else:
        yield from _line_blocks(stream, name, before + 1, first + b"\n" * between + second)


def _next_line(stream: IO[bytes], mark: bytes = b"") -> tuple[bytes, int]:
    """Return the next line that is not blank, without the mark, and how many blank ones stand before.

    Of a longer line it is the first :data:`WHOLE_BYTES`.
    """
    blank = 0
    while line := stream.readline(WHOLE_BYTES):
        line = line if blank else line.removeprefix(mark)
        if line.strip():
            break
        blank += 1
    return line, blank


def _line_blocks(stream: IO[bytes], name: str, number: int, begun: bytes) -> Iterator[Block]:
    """Yield the lines ``begun`` and all that follow; ``number`` is that of the first."""
    while data := begun + stream.read(BLOCK_BYTES):
        data += stream.readline()
        yield JsonLines(name, number, data)
        number += data.count(b"\n")
        begun = b""


def read_table(stream: IO[bytes], name: str, usual: str) -> Iterator[Block]:
    """Yield a row of named cells for each record; `where` holds the number of its last line.

    The separator is the one of comma, tab, semicolon and pipe that stands most often in the header,
    outside quotes; ``usual`` where none does.

    Raises:
        FormatError: A column is named twice, lines end with carriage returns alone, or the bytes are no UTF-8.
        csv.Error: The quotes do not close.
    """
    csv.field_size_limit(_LONGEST_CELL)
    lines = _texts(stream)
    first = next(lines, "")
    if "\r" in _outside_quotes(first.removesuffix("\n").removesuffix("\r")):
        raise FormatError(*_CARRIAGE_RETURNS)
    separator = max((usual, *_SEPARATORS), key=_outside_quotes(first).count)
    if separator != usual:
        _log.info("%s: its columns are separated by %r", name, separator)

    reader = csv.reader(itertools.chain([first], lines), strict=True, delimiter=separator)
    header = next(reader, [])
    if twice := {column for column in header if header.count(column) > 1}:
        raise FormatError(f"names a column twice in its first line: {min(twice)!r}", "rename one of them")
    records: list[tuple[int, list[str]]] = []
    size = 0
    for cells in reader:
        if cells:
            records.append((reader.line_num, cells))
            size += sum(map(len, cells))
        if size >= BLOCK_BYTES:
            yield Records(name, tuple(header), tuple(records))
            records, size = [], 0
    if records:
        yield Records(name, tuple(header), tuple(records))


def _texts(stream: IO[bytes]) -> Iterator[str]:
    for number, line in enumerate(_without_mark(stream), start=1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise not_utf8(error, f"line {number}") from None


def _outside_quotes(header: str) -> str:
    return re.sub(r'"(?:[^"]|"")*"?', "", header)


def _without_mark(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines; only line feeds end one, for a JSON string may hold other separators."""
    for number, line in enumerate(stream):
        yield line.removeprefix(_BOM) if not number else line
