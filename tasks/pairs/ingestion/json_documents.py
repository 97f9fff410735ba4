"""JSON documents that hold rows: an array, or an object that wraps one, such as `{"data": [...]}`.

A long document is read piece by piece with the scanner of Python's `json`, so that one row and one piece are in memory.
ijson and DuckDB were no slower, but changed or refused what Python reads: lone surrogates, NaN, long integers.
"""

from __future__ import annotations

import codecs
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any

import orjson

from tasks.pairs.ingestion.json_tables import table_rows
from tasks.pairs.raw.raw_row import BLOCK_BYTES, Block, FormatError, RawRow, in_blocks
from tasks.telemetry.log import get_logger

WHOLE_BYTES = 1 << 24  # documents up to this size are held whole: all of one decides what its rows are

# An object with one of these is a row itself, whatever lists it holds; else its only list of objects is the rows.
_ROW_KEYS = {
    *("prompt", "instruction", "question", "query", "input", "context", "history", "post", "system"),
    *("chosen", "rejected", "response", "responses", "completion", "completions", "messages", "conversations"),
}
# orjson rounds integers above 64 bits, json keeps them; ten times faster than a pattern for 19 digits
_DIGITS_TO_ZERO, _LONG_NUMBER = bytes.maketrans(b"123456789", b"0" * 9), b"0" * 19
_NO_SPACE = re.compile(r"[^ \t\n\r]|\Z")
_LONGEST_MARK = 16  # characters: of `-Infinity` or an escape; what is farther from the text's end is not cut by it
_ADVICE = "fetch it again, or write one row a line (`jq -c . FILE`) into a .jsonl file"

_log = get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class JsonItems:
    """Items of an array.

    Attributes:
        name: What `where` calls the file.
        first: The number of the first item, from 1.
        items: The JSON text of each.
    """

    name: str
    first: int
    items: tuple[bytes, ...]

    def rows(self) -> Iterator[RawRow]:
        """Yield the items as rows."""
        return (parse_json(item, f"{self.name}:{number}") for number, item in enumerate(self.items, start=self.first))


def read_document(begun: bytes, stream: IO[bytes], name: str) -> Iterator[Block]:
    """Yield the rows of one document: the items of its list, or the one object that it is.

    Args:
        begun: Its first bytes.
        stream: The bytes that follow.
        name: What `where` calls the file.

    Raises:
        FormatError: It is no whole document, or no UTF-8.
    """
    data = begun + stream.read(WHOLE_BYTES)
    is_whole = len(data) < len(begun) + WHOLE_BYTES
    if not is_whole and (data.lstrip().startswith(b"[") or wraps_rows(data)):
        yield from _blocks(_texts_of(_Scanner(data, stream), name), name)
    else:
        yield from in_blocks(_whole_rows(data if is_whole else data + stream.read(), name))


def wraps_rows(begun: bytes) -> bool:
    """Tell whether a long object begins with a list of rows, or with texts and numbers that are no row's before it."""
    try:
        scanner = _Scanner(begun)
        return scanner.take() == "{" and bool(_rows_key(scanner)) and _is_row(scanner.value()[0])
    except FormatError:
        return False


def rows_of(value: Any, name: str) -> list[Any] | None:
    """Return the rows of a list, or of an object that wraps one or holds a table; None where the value is a row itself.

    Raises:
        FormatError: The object wraps several lists of rows.
    """
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and (table := table_rows(value, _ROW_KEYS)):
        _log.info("%s: read as %s", name, table[1])
        return table[0]
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
    return isinstance(value, list) and bool(value) and all(map(_is_row, value))


def _is_row(value: Any) -> bool:
    """Tell an object that is no message."""
    return isinstance(value, dict) and not {"role", "from"} & value.keys()


def parse_json(text: bytes, where: str) -> RawRow:
    """Parse one JSON text; what orjson refuses or would round goes to json, which also says where the fault is.

    Raises:
        UnicodeDecodeError: The text is no UTF-8.
    """
    try:
        if _LONG_NUMBER not in text.translate(_DIGITS_TO_ZERO):
            return RawRow(where, orjson.loads(text))
    except orjson.JSONDecodeError:
        pass
    try:
        return RawRow(where, json.loads(text.decode().rstrip()))
    except json.JSONDecodeError as error:
        line_number = f"line {error.lineno}, " if error.lineno > 1 else ""
        return RawRow(where, None, f"{error.msg} at {line_number}column {error.colno}")
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        return RawRow(where, None, f"{type(error).__name__} in the JSON")


def not_utf8(error: UnicodeDecodeError, where: str) -> FormatError:
    """Return the refusal of bytes that are no text."""
    what = f"is not UTF-8 text: byte 0x{error.object[error.start]:02x} in {where}"
    return FormatError(what, "convert it to UTF-8, or name the file by what it is")


def _whole_rows(data: bytes, name: str) -> Iterator[RawRow]:
    """Yield the rows of a document that is held whole."""
    try:
        whole = parse_json(data, name)
    except UnicodeDecodeError as error:
        raise not_utf8(error, "the document") from None
    if whole.fault:
        raise _broken(whole.fault)
    rows = rows_of(whole.value, name)
    for number, row in enumerate([whole.value] if rows is None else rows, start=1):
        yield RawRow(f"{name}:{number}", row)


def _blocks(texts: Iterable[str], name: str) -> Iterator[Block]:
    """Yield the items in blocks of about :data:`BLOCK_BYTES`."""
    first, items, size = 1, [], 0
    for text in texts:
        items.append(text.encode())
        size += len(items[-1])
        if size >= BLOCK_BYTES:
            yield JsonItems(name, first, tuple(items))
            first, items, size = first + len(items), [], 0
    if items:
        yield JsonItems(name, first, tuple(items))


def _texts_of(scanner: _Scanner, name: str) -> Iterator[str]:
    """Yield the text of each item of a document that is an array, or an object that wraps one."""
    yield from scanner.items() if scanner.take() == "[" else _texts_of_object(scanner, name)
    if scanner.peek():
        raise _broken("something follows its end")


def _texts_of_object(scanner: _Scanner, name: str) -> Iterator[str]:
    """Yield the text of each item of the list that :func:`wraps_rows` saw; the scanner is behind the first brace."""
    rows_key = _rows_key(scanner)
    _log.info("%s: its rows stand in the list `%s`", name, rows_key)
    yield from scanner.items()
    while (mark := scanner.take()) == ",":
        key = scanner.key()
        if key in _ROW_KEYS or isinstance(scanner.value()[0], dict | list):
            what = f"holds `{key}` beside the rows in `{rows_key}`"
            raise FormatError(what, "write the rows alone into a .jsonl file, one a line")
    if mark != "}":
        raise _broken("Expecting ',' delimiter")


def _rows_key(scanner: _Scanner) -> str:
    """Return the key of an object's first list, and go behind its bracket; nothing if the object is a row itself."""
    mark = ","
    while mark == ",":
        key = scanner.key()
        if key in _ROW_KEYS:
            return ""
        if scanner.peek() == "[":
            scanner.take()
            return key
        if isinstance(scanner.value()[0], dict):
            return ""
        mark = scanner.take()
    return ""


class _Scanner:
    """Reads values from a JSON text, and drops what was read."""

    def __init__(self, begun: bytes, stream: IO[bytes] | None = None) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._scan = json.JSONDecoder().raw_decode
        self._items = 0
        self._place = 0
        self._text = self._decoded(begun)

    def peek(self) -> str:
        """Return the next character that is no white space; nothing at the end."""
        while True:
            if mark := _NO_SPACE.search(self._text, self._place):
                self._place = mark.start()
            if self._place < len(self._text) or not self._read_on():
                return self._text[self._place : self._place + 1]

    def take(self) -> str:
        """Return the same, and go behind it."""
        mark = self.peek()
        self._place += 1
        return mark

    def value(self) -> tuple[Any, str]:
        """Return the next value, and its text.

        Raises:
            FormatError: It is none.
        """
        self.peek()
        while True:
            try:
                value, end = self._scan(self._text, self._place)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos + _LONGEST_MARK > len(self._text)
                if not (is_cut and self._read_on()):
                    raise _broken(f"{error.msg} in item {self._items + 1}") from None
                continue
            except (ValueError, RecursionError) as error:
                raise _broken(f"{type(error).__name__} in item {self._items + 1}") from None
            if end + _LONGEST_MARK > len(self._text) and self._read_on():
                continue  # a number may go on, as in `-3` of `-3e2`
            text, self._place = self._text[self._place : end], end
            return value, text

    def key(self) -> str:
        """Return the next name of an object, and go behind its colon."""
        key, _ = self.value()
        if not isinstance(key, str) or self.take() != ":":
            raise _broken("Expecting a name in quotes and a colon")
        return key

    def items(self) -> Iterator[str]:
        """Yield the text of each item of a list; the scanner stands behind its first bracket."""
        if self.peek() == "]":
            self.take()
            return
        mark = ","
        while mark == ",":
            yield self.value()[1]
            self._items += 1
            mark = self.take()
        if mark != "]":
            raise _broken(f"Expecting ',' delimiter behind item {self._items}")

    def _read_on(self) -> bool:
        """Read more text, the more the longer the value is; return False at the end."""
        data = self._stream.read(max(BLOCK_BYTES, len(self._text) - self._place)) if self._stream else b""
        more = self._decoded(data, is_last=not data)
        if data:
            self._text, self._place = self._text[self._place :] + more, 0
        return bool(data)

    def _decoded(self, data: bytes, is_last: bool = False) -> str:
        try:
            return self._decoder.decode(data, final=is_last and self._stream is not None)
        except UnicodeDecodeError as error:
            raise not_utf8(error, "the document") from None


def _broken(fault: str) -> FormatError:
    return FormatError(f"is not a whole JSON array or object ({fault})", _ADVICE)
