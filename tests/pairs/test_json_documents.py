"""Long JSON documents: read piece by piece, they give what reading them whole gives."""

from __future__ import annotations

import gzip
import io
import json
import random
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.core.errors import DataError
from tasks.pairs.ingestion import json_documents
from tasks.pairs.ingestion.formats import read_blocks, read_rows
from tasks.pairs.ingestion.json_documents import read_document
from tasks.pairs.raw.raw_row import FormatError
from tests.pairs.samples import text_rows


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every document counts as long, and is read a few bytes at a time."""
    monkeypatch.setattr(json_documents, "WHOLE_BYTES", 1)
    monkeypatch.setattr(json_documents, "BLOCK_BYTES", 3)


def rows_in(data: bytes, begun: int = 0) -> list[Any]:
    blocks = read_document(data[:begun], io.BytesIO(data[begun:]), "a.json")
    return [row.value for block in blocks for row in block.rows()]


def fault_of(data: bytes) -> str:
    with pytest.raises(FormatError) as caught:
        rows_in(data)
    return caught.value.what


ARRAYS = [
    '[{"x": 1}, {"x": 2, "x": 3}]',
    " [ ] ",
    '\n[\n 1 ,2.50,-3e2 , "a]\\",[{\\u00e9" , null,true, [[], {}] ]\r\n\t',
    '[123456789012345678901234567890, NaN, -Infinity, 1e999, -9223372036854775809, "\\ud800", "é🙂\u2028"]',
    '[{"prompt": "' + "long " * 50 + '", "meta": {"deep": [{"deeper": {}}]}}]',
]


@pytest.mark.usefixtures("in_pieces")
@pytest.mark.parametrize("text", ARRAYS)
def test_an_array_in_pieces_has_the_values_of_python_s_json(text: str) -> None:
    data = text.encode()
    for begun in (0, 1, len(data) // 2):
        assert repr(rows_in(data, begun)) == repr(json.loads(text))


@pytest.mark.usefixtures("in_pieces")
def test_any_array_cut_anywhere_has_the_values_of_python_s_json() -> None:
    chance = random.Random(0)

    def value(depth: int) -> Any:
        kind = chance.randrange(8 if depth else 6)
        if kind > 5:
            items = [value(depth - 1) for _ in range(chance.randrange(4))]
            return items if kind == 6 else {f'k{i}\n"': item for i, item in enumerate(items)}
        return [None, True, -0.1 * depth, chance.randrange(10**25), 'a\\"é\u2028🙂[{,}]', 0][kind]

    for _ in range(200):
        rows = [value(3) for _ in range(chance.randrange(5))]
        text = json.dumps(rows, ensure_ascii=chance.random() < 0.5, indent=chance.choice((None, 1)))
        assert rows_in(text.encode(), chance.randrange(5)) == rows


@pytest.mark.usefixtures("in_pieces")
@pytest.mark.parametrize(
    "text",
    [
        "[1,2",
        "[1,2] x",
        "[1,2]]",
        "[1,]",
        "[,1]",
        "[1 2]",
        '["a]',
        '["a\tb"]',
        "['a']",
        "[01]",
        "[tru]",
        '[{"a":1}',
        "[",
    ],
)
def test_a_broken_array_in_pieces_is_refused_as_python_s_json_does(text: str) -> None:
    with pytest.raises(ValueError):
        json.loads(text)
    assert "is not a whole JSON array or object" in fault_of(text.encode())


@pytest.mark.usefixtures("in_pieces")
def test_bytes_that_are_no_utf8_and_a_nesting_without_end_are_refused() -> None:
    assert "not UTF-8 text: byte 0xe9" in fault_of(b'[{"x": "caf\xe9"}]')
    assert "not UTF-8 text: byte 0xc3" in fault_of(b'[{"x": "caf\xc3')
    assert "RecursionError in item 2" in fault_of(b"[1, " + b"[" * 200_000)


def test_a_fault_at_the_beginning_is_found_without_reading_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_documents, "WHOLE_BYTES", 100)
    monkeypatch.setattr(json_documents, "BLOCK_BYTES", 100)
    stream = io.BytesIO(b'[{"x": 1} {"x": 2}' + b', {"x": "3"}' * 10_000)
    with pytest.raises(FormatError, match="behind item 1"):
        list(read_document(b"", stream, "a.json"))
    assert stream.tell() < 1000


# long files


def long_rows() -> list[dict[str, Any]]:
    return [{**row, "chosen": f"é{i} " * 700, "id": 10**25 + i} for i, row in enumerate(text_rows(6000))]


@pytest.fixture(scope="module")
def long_array() -> bytes:
    data = json.dumps(long_rows()).encode()
    assert len(data) > json_documents.WHOLE_BYTES * 2
    return data


def write(path: Path, data: bytes) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("a.json", data)
    else:
        compress = {
            ".gz": lambda raw: gzip.compress(raw, 1),
            ".zst": lambda raw: pa.compress(raw, "zstd", asbytes=True),
        }
        path.write_bytes(compress.get(path.suffix, bytes)(data))
    return path


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "a.json.zst", "a.zip"])
def test_a_long_array_on_one_line_is_read_in_blocks(tmp_path: Path, long_array: bytes, name: str) -> None:
    path = write(tmp_path / name, long_array)
    rows = list(read_rows(path, "a"))
    assert [row.value["id"] - 10**25 for row in rows] == list(range(6000))
    assert rows[4999].where.endswith(":5000")
    assert len(list(read_blocks(path, "a"))) > 3


WRAPPED = [
    ('{"data": %s, "version": "1.0"}', True),
    ('\ufeff{\n "version": 1,\n "rows": %s\n}\n', True),
    ('{"prompt": "one row", "candidates": %s}', False),
    ('{"meta": {}, "candidates": %s}', False),
]


@pytest.mark.parametrize(("text", "is_wrapped"), WRAPPED)
def test_a_long_object_that_wraps_a_list_is_read_in_blocks_and_a_long_row_as_one(
    tmp_path: Path, long_array: bytes, text: str, is_wrapped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.json", (text % long_array.decode()).encode())
    with caplog.at_level("INFO"):
        rows = list(read_rows(path, "a.json"))
    assert len(rows) == (6000 if is_wrapped else 1)
    assert ("a.json: its rows stand in the list" in caplog.text) == is_wrapped


def test_a_long_object_with_a_second_list_or_a_cut_one_is_refused_by_name(tmp_path: Path, long_array: bytes) -> None:
    for tail, message in (
        (b', "test": [{"x": 1}]}', "holds `test` beside the rows in `train`"),
        (b', "chosen": "x"}', "holds `chosen` beside the rows in `train`"),
        (b"", "is not a whole JSON array or object"),
        (b"}}", "is not a whole JSON array or object"),
    ):
        path = write(tmp_path / "a.json", b'{"train": ' + long_array + tail)
        with pytest.raises(DataError, match=message) as caught:
            list(read_rows(path, "a.json"))
        assert str(path) in str(caught.value)


def test_a_cut_long_array_gives_no_half_of_it_in_silence(tmp_path: Path, long_array: bytes) -> None:
    path = write(tmp_path / "a.json.gz", long_array[:-2000])
    with pytest.raises(DataError, match="not a whole JSON array"):
        list(read_rows(path, "a.json.gz"))


def test_a_long_first_row_of_json_lines_is_a_row(tmp_path: Path, long_array: bytes) -> None:
    line = b'{"prompt": "P", "answers": ' + long_array + b"}\n"
    path = write(tmp_path / "a.jsonl", b"\n" + line + b'\n{"prompt": "Q"}\n')
    rows = list(read_rows(path, "a.jsonl"))
    assert [(row.where, row.value["prompt"]) for row in rows] == [("a.jsonl:2", "P"), ("a.jsonl:4", "Q")]


def test_the_memory_that_reading_takes_does_not_grow_with_the_array() -> None:
    class Endless(io.RawIOBase):
        """An array of as many rows as are asked for, made as it is read."""

        def __init__(self, rows: int) -> None:
            self._parts: Iterator[bytes] = iter([b"[0", *[b', {"x": "' + b"a" * (1 << 20) + b'"}'] * rows, b"]"])
            self._left = b""

        def readable(self) -> bool:
            return True

        def readinto(self, target: Any) -> int:
            self._left = self._left or next(self._parts, b"")
            size = min(len(target), len(self._left))
            target[:size], self._left = self._left[:size], self._left[size:]
            return size

    peaks = []
    for rows in (40, 120):
        tracemalloc.start()
        assert sum(1 for _ in read_document(b"", io.BufferedReader(Endless(rows)), "a")) > rows // 5
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.1
