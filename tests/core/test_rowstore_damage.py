"""The row store when its files are damaged, strange or unfinished, and the commands that look after it."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.files import sha256_file
from tasks.rowstore import segment as segments
from tasks.rowstore.row_store import DTYPES, RowStore
from tasks.upkeep.compaction import compact
from tests.conftest import ROOT
from tests.core.row_writer import append, files, filled, holds, keys_of, opened


def test_a_damaged_segment_is_not_compacted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    filled(tmp_path, range(50))
    (bad,) = files(tmp_path)
    damage(bad, "a bit of the values")
    store = filled(tmp_path, range(50, 60), range(60, 70))
    assert compact(store) == (2, 20)
    assert bad in files(tmp_path)
    assert bad.name in caplog.text


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    third = len(whole) // 3
    changed = {
        "cut": whole[:-9],
        "empty": b"",
        "longer": whole + b"x",
        "a bit of the values": whole[:third] + bytes([whole[third] ^ 4]) + whole[third + 1 :],
        "a bit of the footer": whole[:-12] + bytes([whole[-12] ^ 1]) + whole[-11:],
        "nothing of it": b"PAR1 and then something else PAR1",
    }
    path.write_bytes(changed[how])


@pytest.mark.parametrize(
    "how", ["cut", "empty", "longer", "a bit of the values", "a bit of the footer", "nothing of it"]
)
def test_a_damaged_segment_is_named_once_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str):
    filled(tmp_path / "a", range(50))
    store = filled(tmp_path, range(50), range(50, 60))
    bad = next(path for path in files(tmp_path) if path.name == files(tmp_path / "a")[0].name)
    damage(bad, how)
    reader = opened(tmp_path)
    for _ in range(2):
        holds(reader.get(keys_of(np.arange(60))), np.arange(60), set(range(50, 60)))
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1
    assert str(bad) in said[0]
    append(store, np.arange(50))  # computed anew, it takes the damaged one's place
    holds(opened(tmp_path).get(keys_of(np.arange(60))), np.arange(60), set(range(60)))


def test_a_segment_damaged_after_it_was_opened_gives_no_wrong_values(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    store = filled(tmp_path, range(50), range(50, 60))
    holds(store.get(keys_of(np.arange(60))), np.arange(60), set(range(60)))
    bad = max(files(tmp_path), key=lambda path: path.stat().st_size)
    data = bytearray(bad.read_bytes())
    group = pq.ParquetFile(bad).metadata.row_group(0).column(2)
    place = group.data_page_offset + group.total_compressed_size - 3
    data[place] ^= 8
    bad.write_bytes(bytes(data))
    holds(store.get(keys_of(np.arange(60))), np.arange(60), set(range(50, 60)))
    assert bad.name in caplog.text


def test_a_flipped_bit_is_noticed_when_its_row_group_is_read_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(segments, "MOST_GROUP_ROWS", 10)
    filled(tmp_path, range(30))
    (path,) = files(tmp_path)
    data, column = bytearray(path.read_bytes()), pq.ParquetFile(path).metadata.row_group(1).column(2)
    data[column.data_page_offset + column.total_compressed_size - 3] ^= 1
    path.write_bytes(bytes(data))

    holds(opened(tmp_path).get(keys_of(np.arange(10))), np.arange(10), set(range(10)))
    assert caplog.messages == []
    # row group 1 holds rows 10 to 19; what was read before it is kept
    holds(opened(tmp_path).get(keys_of(np.arange(30))), np.arange(30), set(range(10)))
    assert len(caplog.messages) == 1


def test_no_flipped_byte_gives_a_wrong_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every 13th byte, each time another bit: pages have a checksum, and what is no page stands twice."""
    monkeypatch.setattr(segments, "MOST_GROUP_ROWS", 10)
    every = np.arange(30)
    filled(tmp_path, range(30))
    (path,) = files(tmp_path)
    whole, losses = path.read_bytes(), 0
    for place in range(0, len(whole), 13):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        rows = opened(tmp_path).get(keys_of(every))
        there = set(every[rows.mask].tolist())
        holds(rows, every, there)
        losses += len(there) < 30
    assert losses > len(whole) // 13 // 2, "most bytes of a segment are checked"


def test_strangers_in_the_folder_are_named_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    filled(tmp_path, range(5))
    folder = tmp_path / "reference"
    (folder / "notes.txt").write_text("mine")
    (folder / ".hidden").write_text("no matter")
    pq.write_table(pa.table({"key": [1]}), folder / "draft")
    (folder / "draft").rename(folder / f"{sha256_file(folder / 'draft')}.parquet")  # whole, but no rows of ours
    RowStore.open(tmp_path, "encode").append(keys_of(np.arange(9)), np.zeros(9, np.int32), np.ones(9))
    other = next((tmp_path / "encode").iterdir())
    shutil.copy(other, folder / other.name)
    holds(opened(tmp_path).get(keys_of(np.arange(9))), np.arange(9), set(range(5)))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    assert sum("holds no rows of the kind `reference`" in line for line in said) == 2
    assert any("notes.txt is no segment of a row store" in line for line in said)


def test_drafts_are_not_read_and_compacting_sweeps_old_ones(tmp_path: Path):
    store = filled(tmp_path, range(5))
    whole = files(tmp_path)[0].read_bytes()
    old, new = (tmp_path / "reference" / f".{number}-0123456789abcdef.draft" for number in (1, 2))
    for path in (old, new):
        path.write_bytes(whole[:100])
    os.utime(old, (time.time() - 90_000,) * 2)
    append(store, np.arange(5, 6))
    compact(store)
    assert (old.exists(), new.exists()) == (False, True)
    holds(opened(tmp_path).get(keys_of(np.arange(7))), np.arange(7), set(range(6)))


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tasks.upkeep", *words], cwd=ROOT, capture_output=True, text=True)


def test_verify_names_each_damaged_segment_and_ends_with_one(tmp_path: Path):
    filled(tmp_path, range(50), range(50, 60))
    whole = run("verify", "--store", str(tmp_path))
    assert whole.stdout.splitlines()[:2] == ["reference: 2 segments, 0 damaged", "encode: 0 segments, 0 damaged"]
    assert (len(whole.stdout.splitlines()), whole.returncode) == (len(DTYPES), 0)
    bad = files(tmp_path)[0]
    damage(bad, "a bit of the values")
    done = run("verify", "reference", "--store", str(tmp_path))
    assert (done.stdout, done.returncode) == ("reference: 2 segments, 1 damaged\n", 1)
    assert f"skipped: {bad} is damaged: its SHA-256 is not the one in its name — delete it" in done.stderr


def test_the_command_line_takes_the_store_of_params_yaml_and_refuses_what_it_does_not_know(tmp_path: Path):
    (tmp_path / "params.yaml").write_text("runtime: {row_store: rows}\n")
    filled(tmp_path / "rows", range(3), range(3, 5))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tasks.upkeep", "compact"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    nothing = [f"{kind}: nothing to compact" for kind in DTYPES if kind != "reference"]
    assert done.stdout.splitlines() == ["reference: 2 segments are one now, of 5 rows", *nothing]
    (tmp_path / "params.yaml").write_text("runtime: {row_store: ''}\n")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "`runtime.row_store` is empty" in done.stderr
    assert "name reference or encode" in run("compact", "rewards").stderr
