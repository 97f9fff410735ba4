"""Mutated files of every form: an error that says what is wrong, or rows; never a traceback or a lost row."""

from __future__ import annotations

import gzip
import io
import json
import math
import random
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import DataError, PipelineError
from tasks.core.params import build
from tasks.ingest import IngestConfig
from tasks.pairs.ingestion.formats import RawRow, read_rows
from tasks.pairs.ingestion.intake import Intake
from tasks.pairs.ingestion.reading import read_entries
from tasks.pairs.ingestion.rows import parse_row
from tasks.pairs.ingestion.sources import find_entries
from tasks.pairs.record.pair import Columns, Pair
from tests.pairs.samples import json_lines
from tests.pairs.schemas.catalogue import SCHEMAS

ROWS = [
    {"prompt": f"Question {i}?", "chosen": f"Yes, {i}.", "rejected": "No.", "weight": i + 0.5, "extra": i * 10**9}
    for i in range(12)
]
INSERTED = [
    *(b"\x1d", b"\0", b"\xff", b"\xed\xa0\x80", b"\r", b"\n", b'"', b",", b"\t", b"{", b"[", b"NaN", b"-", b"1e999"),
    *(b'"\\ud800"', b"9" * 5000, b"[" * 3000, b'"prompt": "twice", ', b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"null", b"\\"),
]
LINES = (".jsonl", ".csv", ".tsv")  # a row a line, so that it is known which rows a change touches


def good_files() -> dict[str, bytes]:
    """The same rows in every form."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    table = "\n".join(["prompt,chosen,rejected,weight,extra", *(cells(row, ",") for row in ROWS)]).encode() + b"\n"
    tabs = "\n".join(["prompt\tchosen\trejected\tweight\textra", *(cells(row, "\t") for row in ROWS)]).encode()
    arrow, packed, parquet = io.BytesIO(), io.BytesIO(), io.BytesIO()
    columns = pa.Table.from_pylist(ROWS)
    columns = columns.set_column(4, "extra", columns["extra"].cast(pa.timestamp("us")))
    pq.write_table(columns, parquet, compression="none", use_dictionary=False)
    feather.write_feather(columns, arrow, compression="uncompressed")
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.jsonl", lines)
    return {
        "a.jsonl": lines,
        "a.json": json.dumps({"data": ROWS}, indent=1).encode(),
        "b.json": json.dumps(ROWS).encode(),
        "a.csv": table,
        "a.tsv": tabs,
        "a.jsonl.gz": gzip.compress(lines, mtime=0),
        "a.csv.zst": bytes(pa.compress(table, codec="zstd", asbytes=True)),
        "a.zip": packed.getvalue(),
        "a.parquet": parquet.getvalue(),
        "a.arrow": arrow.getvalue(),
    }


def cells(row: dict[str, object], separator: str) -> str:
    return separator.join(f'"{value}"' for value in row.values())


def mutated(data: bytes, chance: random.Random) -> tuple[bytes, int, int]:
    """Flip, cut, or insert bytes; return the bytes and where the change begins and ends in the old ones."""
    at = chance.randrange(len(data))
    kind = chance.choice(("flip", "cut", "insert", "end"))
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :], at, at + 1
    if kind == "cut":
        end = min(len(data), at + chance.randrange(1, 40))
        return data[:at] + data[end:], at, end
    if kind == "end":
        return data[:at], at, len(data)
    return data[:at] + chance.choice(INSERTED) + data[at:], at, at + 1


def untouched(data: bytes, start: int, end: int, skipped: int) -> list[int]:
    """Return the numbers of the rows whose lines a change leaves alone."""
    rows, position = [], 0
    for number, line in enumerate(data.splitlines(keepends=True)):
        if (position + len(line) < start or position > end) and number >= skipped:
            rows.append(number - skipped)
        position += len(line)
    return rows


def read(path: Path) -> list[RawRow] | DataError:
    try:
        return list(read_rows(path, path.name))
    except DataError as error:
        return error


def try_mutations(folder: Path, count: int, seed: int) -> None:
    chance, files = random.Random(seed), good_files()
    for _ in range(count):
        name = chance.choice(list(files))
        data, start, end = mutated(files[name], chance)
        path = folder / name
        path.write_bytes(data)
        rows = read(path)
        if isinstance(rows, DataError):
            assert name in str(rows)
            continue
        pairs = [pair for row in rows if isinstance(pair := parse_row(row, Columns()), Pair)]
        is_table = path.suffix in (".csv", ".tsv")
        header_is_touched = is_table and start <= files[name].index(b"\n")
        if path.suffix in LINES and not header_is_touched:
            prompts = {pair.prompt for pair in pairs}
            lost = [i for i in untouched(files[name], start, end, int(is_table)) if ROWS[i]["prompt"] not in prompts]
            assert lost == [], f"{name}: {data!r}"


def test_mutated_files_give_rows_or_one_clear_error(tmp_path: Path) -> None:
    try_mutations(tmp_path, 150, seed=0)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1, 6))
def test_thousands_of_mutated_files_give_rows_or_one_clear_error(tmp_path: Path, seed: int) -> None:
    try_mutations(tmp_path, 1000, seed)


VALUES = [
    *(None, True, 0, -1, 1.5, math.nan, math.inf, 10**400, "", " ", "x", "nan", "\ud800", '[{"role": 3}]', [], {}),
    *(["x"], {"a": 1}, [None], [[1]], [{}], {"role": 5}, [{"role": "user"}], {"content": None}, {"messages": 3}),
]


def with_other_values(rows: list[Any], chance: random.Random) -> bytes:
    """Return rows as lines, with up to three values anywhere in them replaced."""
    changed = json.loads(json.dumps(rows))
    for _ in range(chance.randrange(1, 4)):
        place = chance.choice(changed)
        while isinstance(place, dict | list) and place:
            key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not (isinstance(place[key], dict | list) and chance.random() < 0.7):
                place[key] = chance.choice(VALUES)
                break
            place = place[key]
    return json_lines(changed)


def try_schemas(folder: Path, count: int, seed: int) -> None:
    """Read mutated files of every published schema: pairs and rejections of all rows, or one error."""
    chance, schemas = random.Random(seed), list(SCHEMAS.values())
    for _ in range(count):
        schema = chance.choice(schemas)
        path, rows = schema.write(folder), schema.rows()
        if chance.random() < 0.5:
            path = folder / "values.jsonl"
            path.write_bytes(with_other_values(rows, chance))
        else:
            path.write_bytes(mutated(path.read_bytes(), chance)[0])
        config = build(IngestConfig, {"sources": [str(path)], **schema.params}, "ingest")
        intake = Intake()
        try:
            taken = list(intake.read(find_entries(read_entries(config), {})))
        except PipelineError:
            continue
        assert len(taken) == intake.total.outcomes - intake.total.filtered, schema.name


def test_mutated_files_of_every_schema_give_pairs_or_one_clear_error(tmp_path: Path) -> None:
    try_schemas(tmp_path, 80, seed=0)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1, 6))
def test_thousands_of_mutated_files_of_every_schema_give_pairs_or_one_clear_error(tmp_path: Path, seed: int) -> None:
    try_schemas(tmp_path, 1000, seed)


def test_a_separator_character_behind_a_weight_in_csv_is_a_space(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected,weight\nA?,yes,no,1.5\x1d\n")
    (row,) = read_rows(tmp_path / "a.csv", "a.csv")
    pair = parse_row(row, Columns())
    assert isinstance(pair, Pair)
    assert pair.weight == 1.5
