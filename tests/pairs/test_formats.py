"""Files of rows: what is read, what is refused as a whole, and what is one broken row."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import zipfile
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import DataError, printable
from tasks.pairs.ingestion.formats import RawRow, read_rows
from tests.pairs.samples import text_rows, write_rows


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def values(path: Path) -> list[object]:
    return [row.value for row in read_rows(path, path.name)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.csv", "a.csv.gz", "a.tsv.zst"])
def test_every_text_form_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    rows = text_rows(3)
    path = tmp_path / name
    text = "\n".join(map(json.dumps, rows))
    if ".json" in name and ".jsonl" not in name:
        text = json.dumps(rows, indent=1)
    if separator := {".csv": ",", ".tsv": "\t"}.get(name[1:5]):
        cells = [list(rows[0]), *(list(row.values()) for row in rows)]
        text = "\n".join(separator.join(f'"{cell}"' for cell in line) for line in cells)
    compress = {".gz": gzip.compress, ".zst": zstd}.get(path.suffix, bytes)
    path.write_bytes(compress(text.encode()))
    assert values(path) == rows


def test_a_json_file_that_holds_json_lines_is_read_as_lines(tmp_path: Path) -> None:
    assert values(write_rows(tmp_path / "a.json", text_rows(3))) == text_rows(3)


def _tables() -> dict[str, str]:
    rows = text_rows(3)
    texts = [[row[name] for row in rows] for name in rows[0]]
    talks = [[{"role": "assistant", "content": text}] for text in texts[1]]
    names = list(rows[0])
    return {
        "a list for each column": json.dumps(dict(zip(names, texts, strict=True))),
        "an object for each column": json.dumps({name: dict(enumerate(texts[i])) for i, name in enumerate(names)}),
        "an object of rows by name": json.dumps({f"a{i}": row for i, row in enumerate(rows)}, indent=2),
        "cells apart from the columns' names": json.dumps(
            {"columns": names, "index": [0, 1, 2], "data": [list(row.values()) for row in rows]}
        ),
        "the rows in the list `data`": json.dumps({"schema": {"fields": []}, "data": rows}),
        "lists of messages": json.dumps({"prompt": texts[0], "chosen": talks, "rejected": talks}),
    }


@pytest.mark.parametrize("form", _tables())
def test_an_object_that_holds_a_table_is_read_as_its_rows(
    tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.json").write_text(_tables()[form])
    with caplog.at_level("INFO"):
        rows = values(tmp_path / "a.json")
    if form == "lists of messages":
        assert [row["prompt"] for row in rows] == [row["prompt"] for row in text_rows(3)]
    else:
        assert rows == text_rows(3)
        assert f"a.json: read as {form}" in caplog.text


@pytest.mark.parametrize(
    "row",
    [
        {name: {"role": "user", "content": "Hi"} for name in ("prompt", "chosen", "rejected")},
        {name: [{"role": "user", "content": "Hi"}] for name in ("prompt", "chosen", "rejected")},
        {"prompt": "Hi", "responses": ["a", "b"], "scores": [1, 2]},
        {"data": {"prompt": "Hi", "chosen": "a", "rejected": "b"}, "meta": {"id": 1}},
        {"data": {"prompt": "Hi", "chosen": "a", "rejected": "b"}},
        {"a": {"response": "x", "model": "m"}, "b": {"response": "y", "model": "n"}},
    ],
)
def test_an_object_that_is_a_row_by_itself_stays_one(tmp_path: Path, row: dict[str, object]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(row, indent=1))
    assert values(tmp_path / "a.json") == [row]


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
    assert printable(str(path)) in str(caught.value)
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
def test_lines_that_end_with_carriage_returns_alone_are_refused_with_the_command_that_mends_them(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    lines = ["a,b", *['"1","x"'] * 3] if name.endswith("csv") else ['{"a": "1", "b": "x"}'] * 3
    path.write_text("\r".join(lines) + "\r", newline="")
    assert "ends its lines with carriage returns alone — write line feeds" in refusal(path)
    with path.open("rb") as old:
        mended = subprocess.run(["tr", "\\r", "\\n"], stdin=old, capture_output=True, check=True).stdout
    for data in (mended, mended.replace(b"\n", b"\r\n"), mended.rstrip(b"\n")):
        path.write_bytes(data)
        assert values(path) == [{"a": "1", "b": "x"}] * 3


def test_a_file_whose_name_is_no_utf8_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / os.fsdecode(b"caf\xe9.jsonl"), text_rows(3))
    assert "is no UTF-8 — rename it" in refusal(path)


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
    (tmp_path / "a.txt").write_bytes(b"PK")
    assert "no known form" in refusal(tmp_path / "a.txt")
    assert "is missing" in refusal(tmp_path / "b.jsonl")


WRAPPED = {"data": text_rows(2), "version": "1.0", "count": 2}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (json.dumps(WRAPPED), text_rows(2)),
        (json.dumps(WRAPPED, indent=2), text_rows(2)),
        (json.dumps(text_rows(2), indent=2), text_rows(2)),
        (json.dumps(text_rows(1)[0], indent=2), text_rows(1)),
        (json.dumps(text_rows(1)[0]), text_rows(1)),
        (
            json.dumps({"answers": [{"role": "user", "content": "x"}]}),
            [{"answers": [{"role": "user", "content": "x"}]}],
        ),
        (json.dumps({"prompt": "x", "ranked": [{"text": "y"}]}), [{"prompt": "x", "ranked": [{"text": "y"}]}]),
        ('[{"x": 1},\n{"x": 2}]', [{"x": 1}, {"x": 2}]),
        ('{"x": 1}\n{"x": 2}', [{"x": 1}, {"x": 2}]),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_json_is_read_as_the_lines_or_the_document_that_it_is(
    tmp_path: Path, text: str, rows: list[object], name: str
) -> None:
    (tmp_path / name).write_text(text)
    assert values(tmp_path / name) == rows


def test_an_object_with_two_lists_of_rows_is_refused_with_their_names(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"train": text_rows(2), "test": text_rows(1)}))
    assert "several lists of rows: `train`, `test`" in refusal(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(json.dumps(text_rows(2)))
    assert values(tmp_path / "a.json") == text_rows(2)


@pytest.mark.parametrize("number", ["123456789012345678901234567890", "NaN", "1e999", "-9223372036854775809"])
def test_numbers_are_those_of_pythons_json(tmp_path: Path, number: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"x": {number}, "y": "\\ud800"}}\n')
    assert repr(values(tmp_path / "a.jsonl")) == repr([json.loads(f'{{"x": {number}, "y": "\\ud800"}}')])


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz", "a.csv.zst", "a.zip"])
def test_a_git_lfs_pointer_is_refused_as_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aaaa\nsize 1234567\n")
    assert "is a Git LFS pointer" in refusal(tmp_path / name)
    assert "git lfs pull" in refusal(tmp_path / name)


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_the_separator_is_found_in_the_header_outside_quotes(tmp_path: Path, separator: str, name: str) -> None:
    header = separator.join(("prompt", '"a, b; c | d, e; f\t| g|"', "chosen"))
    (tmp_path / name).write_text(f'{header}\n"1, 2"{separator}"3;4"{separator}5\n')
    assert values(tmp_path / name) == [{"prompt": "1, 2", "a, b; c | d, e; f\t| g|": "3;4", "chosen": "5"}]


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.zip"])
def test_a_truncated_zstd_or_zip_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in text_rows(500))
    path = tmp_path / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.jsonl", lines)
    else:
        path.write_bytes(zstd(lines[:9000]) + zstd(lines[9000:]))
    assert values(path) == text_rows(500)
    path.write_bytes(path.read_bytes()[:-30])
    assert "damaged or truncated" in refusal(path)


def test_a_zip_gives_its_members_in_order_without_what_holds_no_data(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for member in ("d/b.jsonl", "d/a.json", "README.md", "__MACOSX/d/._a.json", "d/.DS_Store"):
            archive.writestr(member, json.dumps({"x": member}))
    assert [row.where for row in read_rows(tmp_path / "a.zip", "a.zip")] == ["a.zip/d/a.json:1", "a.zip/d/b.jsonl:1"]
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("x.exe", b"MZ")
    assert "holds 'x.exe', which has no known form" in refusal(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("a.xlsx", "CSV UTF-8"),
        ("a.ods", "CSV UTF-8"),
        ("a.tar.gz", "unpack"),
        ("a.pkl", "JSON lines"),
        ("a.bz2", "gzip"),
    ],
)
def test_a_form_that_is_not_read_is_refused_with_what_to_do(tmp_path: Path, name: str, word: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert word in refusal(tmp_path / name)


@pytest.mark.parametrize("kind", ["file", "stream", "parquet"])
def test_a_time_out_of_range_in_a_table_costs_no_row(tmp_path: Path, kind: str) -> None:
    far = pa.array([2**62, 0], pa.timestamp("us"))
    nested = pa.StructArray.from_arrays([far], ["at"])
    table = pa.table({"prompt": ["a", "b"], "when": far, "meta": nested})
    path = tmp_path / ("a.parquet" if kind == "parquet" else "a.arrow")
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with (pa.ipc.new_file if kind == "file" else pa.ipc.new_stream)(path, table.schema) as writer:
            writer.write_table(table)
    assert values(path) == [
        {"prompt": "a", "when": 2**62, "meta": {"at": 2**62}},
        {"prompt": "b", "when": datetime(1970, 1, 1), "meta": {"at": datetime(1970, 1, 1)}},
    ]
