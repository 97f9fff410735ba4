"""Files of rows: what is read, what is refused as a whole, and what is one broken row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import DataError
from tasks.pairs.ingestion.formats import RawRow, read_rows
from tests.pairs.samples import text_rows, write_rows


def values(path: Path) -> list[object]:
    return [row.value for row in read_rows(path, path.name)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.csv", "a.csv.gz", "a.parquet"])
def test_every_form_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    rows = text_rows(3)
    path = tmp_path / name
    text = "\n".join(map(json.dumps, rows))
    if ".json" in name and ".jsonl" not in name:
        text = json.dumps(rows, indent=1)
    if ".csv" in name:
        text = "prompt,chosen,rejected\n" + "\n".join(f'{r["prompt"]},"{r["chosen"]}",{r["rejected"]}' for r in rows)
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert values(path) == rows


def test_a_json_file_that_holds_json_lines_is_read_as_lines(tmp_path: Path) -> None:
    assert values(write_rows(tmp_path / "a.json", text_rows(3))) == text_rows(3)


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    for name, text in (("a.jsonl", '{"x": 1}\n'), ("a.json", '[{"x": 1}]')):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert values(tmp_path / name) == [{"x": 1}]


def test_a_broken_line_is_one_row_with_its_number_and_reading_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1}\n\n{"x": \n{"x": 2}\n')
    rows = list(read_rows(path, "a.jsonl"))
    assert [row.where for row in rows] == ["a.jsonl:1", "a.jsonl:3", "a.jsonl:4"]
    assert [row.value for row in rows] == [{"x": 1}, None, {"x": 2}]
    assert rows[1].fault == "Expecting value at column 6"


def test_a_line_separator_inside_a_string_does_not_end_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": "a\u2028b\x85c"}\n', encoding="utf-8")
    assert values(path) == [{"x": "a\u2028b\x85c"}]


def test_a_csv_row_with_too_many_cells_is_one_broken_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('p,q\n1,2\n1,2,3\n"two\nlines",4\n')
    assert list(read_rows(path, "a.csv")) == [
        RawRow("a.csv:2", {"p": "1", "q": "2"}),
        RawRow("a.csv:3", None, "3 cells under 2 column names"),
        RawRow("a.csv:5", {"p": "two\nlines", "q": "4"}),
    ]


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_rows(path, path.name))
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_truncated_gzip_is_refused_by_name(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl.gz", text_rows(500))
    path.write_bytes(path.read_bytes()[:-40])
    assert "damaged or truncated gzip" in refusal(path)


def test_a_gzip_with_a_flipped_byte_is_refused_by_name(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl.gz", text_rows(500))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.jsonl\.gz"):
        list(read_rows(path, path.name))


def test_a_file_called_gz_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_text("{}\n")
    assert "gzip" in refusal(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
def test_an_empty_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    assert "empty" in refusal(tmp_path / name)


def test_an_empty_array_and_an_empty_table_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    assert "empty" in refusal(tmp_path / "a.json")
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert "empty" in refusal(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_bytes_that_are_no_utf8_are_refused_with_the_byte(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"x": "caf\xe9"}\n')
    assert "not UTF-8 text: byte 0xe9" in refusal(tmp_path / name)


def test_binary_rubbish_called_parquet_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(bytes(range(256)) * 20)
    assert "not a readable Parquet file" in refusal(tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_pylist(text_rows(50)), tmp_path / "b.parquet")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "b.parquet").read_bytes()[:-60])
    assert "not a readable Parquet file" in refusal(tmp_path / "b.parquet")


def test_a_truncated_json_array_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(text_rows(3))[:-20])
    assert "not a whole JSON array" in refusal(tmp_path / "a.json")


def test_a_folder_an_unknown_form_and_an_absent_file_are_refused_by_name(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)
    (tmp_path / "a.zip").write_bytes(b"PK")
    assert "no known form" in refusal(tmp_path / "a.zip")
    assert "is missing" in refusal(tmp_path / "b.jsonl")
