"""Text that holds rows: JSON lines, JSON documents, and tables with a separator."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import re
from collections.abc import Iterator
from typing import IO, Any

import orjson

from tasks.pairs.raw.raw_row import BLOCK_BYTES, Block, FormatError, RawRow, in_blocks
from tasks.telemetry.log import get_logger

_LONGEST_CELL = 1 << 28  # characters; the csv module's own limit of 131,072 is shorter than a long reply
# orjson rounds integers above 64 bits, json keeps them; ten times faster than a pattern for 19 digits
_DIGITS_TO_ZERO, _LONG_NUMBER = bytes.maketrans(b"123456789", b"0" * 9), b"0" * 19
_BOM = b"\xef\xbb\xbf"
_UNFINISHED = (b"[", b"{", b",")  # how the first line of a document that runs over several lines ends
_SEPARATORS = (",", "\t", ";", "|")

# An object with one of these is a row itself, whatever lists it holds; else its only list of objects is the rows.
_ROW_KEYS = {
    *("prompt", "instruction", "question", "query", "input", "context", "history", "post", "system"),
    *("chosen", "rejected", "response", "responses", "completion", "completions", "messages", "conversations"),
}

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
                    yield _parse(line, f"{self.name}:{number}")
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


def not_utf8(error: UnicodeDecodeError, where: str) -> FormatError:
    """Return the refusal of bytes that are no text."""
    what = f"is not UTF-8 text: byte 0x{error.object[error.start]:02x} in {where}"
    return FormatError(what, "convert it to UTF-8, or name the file by what it is")


def read_json(stream: IO[bytes], name: str, lines: bool) -> Iterator[Block]:
    """Yield the rows of JSON lines, of an array, or of an object that wraps a list of rows.

    Args:
        stream: The bytes.
        name: What `where` calls the file.
        lines: Whether the file's name promises JSON lines: a broken line is then a row with a fault.

    Raises:
        FormatError: The text is one document, and a broken one, or the bytes are no UTF-8.
    """
    numbered = enumerate(_without_mark(stream), start=1)
    first = next(((number, line) for number, line in numbered if line.strip()), None)
    if first is None:
        return
    second = next(((number, line) for number, line in numbered if line.strip()), None)

    try:
        alone, text = _parse(first[1], ""), first[1].strip()
    except UnicodeDecodeError as error:
        raise not_utf8(error, f"line {first[0]}") from None
    over_several = text.startswith(b"[") or text.endswith(_UNFINISHED)
    if alone.fault and ((second and over_several) or (not second and not lines)):
        rest = b"".join(line for _, line in numbered)
        yield from in_blocks(_document(first[1] + (second[1] if second else b"") + rest, name))
    elif not second and not alone.fault and _rows_of(alone.value, name) is not None:
        yield from in_blocks(_document(first[1], name))
    else:
        blank = b"\n" * (second[0] - first[0] - 1) if second else b""
        yield from _line_blocks(stream, name, first[0], first[1] + blank + (second[1] if second else b""))


def _line_blocks(stream: IO[bytes], name: str, number: int, begun: bytes) -> Iterator[Block]:
    """Yield the lines ``begun`` and all that follow; ``number`` is that of the first."""
    while data := begun + stream.read(BLOCK_BYTES):
        data += stream.readline()
        yield JsonLines(name, number, data)
        number += data.count(b"\n")
        begun = b""


def _document(data: bytes, name: str) -> Iterator[RawRow]:
    """Yield the rows of one JSON document: the items of its list, or the one object that it is."""
    try:
        whole = _parse(data, name)
    except UnicodeDecodeError as error:
        raise not_utf8(error, "the document") from None
    if whole.fault:
        advice = "fetch it again, or write one row a line (`jq -c . FILE`) into a .jsonl file"
        raise FormatError(f"is not a whole JSON array or object ({whole.fault})", advice)
    rows = _rows_of(whole.value, name)
    for number, row in enumerate([whole.value] if rows is None else rows, start=1):
        yield RawRow(f"{name}:{number}", row)


def _rows_of(value: Any, name: str) -> list[Any] | None:
    """Return the rows of a list or of an object that wraps one; None where the value is a row itself."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or not _ROW_KEYS.isdisjoint(value):
        return None
    lists = [key for key, item in value.items() if _is_list_of_rows(item)]
    if len(lists) > 1:
        names = ", ".join(f"`{key}`" for key in lists)
        raise FormatError(f"holds several lists of rows: {names}", "write each of them to a file of its own")
    if not lists or any(isinstance(item, dict | list) for key, item in value.items() if key != lists[0]):
        return None
    _log.info("%s: its rows stand in the list `%s`", name, lists[0])
    rows: list[Any] = value[lists[0]]
    return rows


def _is_list_of_rows(value: Any) -> bool:
    """Tell a list of objects that are no messages."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, dict) and not {"role", "from"} & item.keys() for item in value)
    )


def _parse(line: bytes, where: str) -> RawRow:
    """Parse one JSON text; what orjson refuses or would round goes to json, which also says where the fault is."""
    try:
        if _LONG_NUMBER not in line.translate(_DIGITS_TO_ZERO):
            return RawRow(where, orjson.loads(line))
    except orjson.JSONDecodeError:
        pass
    try:
        return RawRow(where, json.loads(line.decode().rstrip()))
    except json.JSONDecodeError as error:
        line_number = f"line {error.lineno}, " if error.lineno > 1 else ""
        return RawRow(where, None, f"{error.msg} at {line_number}column {error.colno}")
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        return RawRow(where, None, f"{type(error).__name__} in the JSON")


def read_table(stream: IO[bytes], name: str, usual: str) -> Iterator[Block]:
    """Yield a row of named cells for each record; `where` holds the number of its last line.

    The separator is the one of comma, tab, semicolon and pipe that stands most often in the header,
    outside quotes; ``usual`` where none does.

    Raises:
        FormatError: A column is named twice, or the bytes are no UTF-8.
        csv.Error: The quotes do not close.
    """
    csv.field_size_limit(_LONGEST_CELL)
    lines = _texts(stream)
    first = next(lines, "")
    separator = _separator(first, usual)
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


def _separator(header: str, usual: str) -> str:
    outside = re.sub(r'"(?:[^"]|"")*"?', "", header)
    return max((usual, *_SEPARATORS), key=outside.count)


def _without_mark(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines; only line feeds end one, for a JSON string may hold other separators."""
    for number, line in enumerate(stream):
        yield line.removeprefix(_BOM) if not number else line
