"""The row store: what was appended is found, whole and unchanged, whatever happens around it."""

from __future__ import annotations

import logging
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import ConfigError
from tasks.core.files import explain_os_error
from tasks.rowstore import row_store as rowstore
from tasks.rowstore import segment as segments
from tasks.rowstore.row_store import RowStore
from tasks.upkeep import compaction
from tasks.upkeep.compaction import compact
from tests.conftest import ROOT
from tests.core.row_writer import append, files, filled, holds, keys_of, opened
from tests.small_disk import fill, small_disk


def test_what_was_appended_is_found_in_the_order_asked(tmp_path: Path):
    store = filled(tmp_path, range(3), range(5, 8))
    found = store.get(keys_of(np.array([6, 4, 1, 2])))
    # row 6 has 6 values from 60 on, row 1 one from 10 on, row 2 two from 20 on; 4 is not there
    assert found.mask.tolist() == [True, False, True, True]
    assert found.lengths.tolist() == [6, 0, 1, 2]
    assert found.flat.tolist() == [60, 61, 62, 63, 64, 65, 10, 20, 21]
    assert found.values(3).tolist() == [20, 21]
    with pytest.raises(KeyError):
        found.values(1)


def test_a_row_of_no_values_is_a_row(tmp_path: Path):
    found = filled(tmp_path, range(7, 8)).get(keys_of(np.array([7, 8])))
    assert (found.mask.tolist(), found.lengths.tolist()) == ([True, False], [0, 0])
    assert found.values(0).tolist() == []


def test_an_empty_store_knows_nothing_and_makes_no_folder(tmp_path: Path):
    store = opened(tmp_path / "rows")
    found = store.get(keys_of(np.arange(3)))
    assert (found.mask.any(), found.flat.size, found.flat.dtype) == (False, 0, np.float32)
    assert store.get(keys_of(np.arange(0))).mask.shape == (0,)
    append(store, np.arange(0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "dtype"), [("reference", np.float32), ("encode", np.int32)])
def test_each_kind_has_its_own_rows_and_numbers(tmp_path: Path, kind: str, dtype: type):
    keys, other = keys_of(np.arange(2)), {"reference": "encode", "encode": "reference"}[kind]
    extremes = np.array([np.finfo(np.float32).tiny, -0.0, 1e-30] if dtype is np.float32 else [-1, 0, 2**31 - 1], dtype)
    RowStore.open(tmp_path, kind).append(keys, extremes, np.array([1, 2]))
    found = RowStore.open(tmp_path, kind).get(keys)
    assert found.flat.dtype == dtype
    assert found.flat.tobytes() == extremes.tobytes()
    assert not RowStore.open(tmp_path, other).get(keys).mask.any()


def test_keys_that_end_in_zero_bytes_or_share_their_beginning_are_told_apart(tmp_path: Path):
    keys = np.zeros((4, 32), np.uint8)
    keys[1, 31], keys[2, 9], keys[3, 0] = 1, 1, 1
    store = opened(tmp_path)
    store.append(keys[2:3], np.array([2.0], np.float32), np.array([1]))
    store.append(keys[3:], np.array([3.0], np.float32), np.array([1]))
    found = store.get(keys)
    assert found.mask.tolist() == [False, False, True, True]
    assert found.flat.tolist() == [2.0, 3.0]


def test_the_same_rows_written_again_are_one_file(tmp_path: Path):
    filled(tmp_path, range(5), range(5))
    assert len(files(tmp_path)) == 1


def test_the_answer_does_not_depend_on_the_order_in_which_segments_came(tmp_path: Path):
    # the same key with other values: as two machines score it, apart by their rounding
    keys, ways = keys_of(np.arange(4)), [np.float32([1, 2, 3, 4]), np.float32([5, 6, 7, 8])]
    answers = []
    for name, order in (("a", (0, 1)), ("b", (1, 0))):
        for way in order:
            opened(tmp_path / name).append(keys, ways[way], np.ones(4, np.int64))
        answers.append(opened(tmp_path / name).get(keys).flat.tolist())
    assert answers[0] == answers[1]
    assert answers[0] in ([1, 2, 3, 4], [5, 6, 7, 8])


def test_a_store_that_is_open_sees_what_others_append(tmp_path: Path):
    one, other = opened(tmp_path), opened(tmp_path)
    append(one, np.arange(3))
    holds(other.get(keys_of(np.arange(5))), np.arange(5), {0, 1, 2})
    append(one, np.arange(3, 5))
    holds(other.get(keys_of(np.arange(5))), np.arange(5), set(range(5)))


@pytest.mark.parametrize(
    "wrong",
    [
        (np.zeros((2, 31), np.uint8), np.zeros(2, np.float32), np.ones(2)),
        (np.zeros(2, "S32"), np.zeros(2, np.float32), np.ones(2)),
        (np.zeros((2, 32), np.uint8), np.zeros(2, np.float64), np.ones(2)),
        (np.zeros((2, 32), np.uint8), np.zeros(3, np.float32), np.ones(2)),
        (np.zeros((2, 32), np.uint8), np.zeros(2, np.float32), np.array([2])),
    ],
    ids=["short keys", "keys as text", "values of another type", "values too many", "a length too few"],
)
def test_rows_that_do_not_add_up_are_not_written(tmp_path: Path, wrong: tuple[np.ndarray, ...]):
    with pytest.raises(ValueError, match=r"keys are|rows of `reference` are"):
        opened(tmp_path).append(*wrong)
    assert list(tmp_path.iterdir()) == []


def test_compacting_makes_small_segments_one_that_holds_the_same_rows(tmp_path: Path):
    reader = filled(tmp_path, range(4))
    holds(reader.get(keys_of(np.arange(50))), np.arange(50), set(range(4)))
    store = filled(tmp_path, *(range(3 * i, 3 * i + 5) for i in range(1, 9)))  # neighbours share two rows

    assert compact(store) == (9, 29)

    assert len(files(tmp_path)) == 1
    every = np.arange(50)
    for who in (store, reader, opened(tmp_path)):
        holds(who.get(keys_of(every)), every, set(range(29)))
    rows = pq.ParquetFile(files(tmp_path)[0]).metadata.num_rows
    assert rows == 29, "each row once"
    assert compact(store) == (0, 0), "one segment is left as it is"


def test_what_was_merged_is_on_the_disk_under_its_name_before_any_segment_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store, synced, sync = filled(tmp_path, range(4), range(4, 8)), list[int](), os.fsync

    def count(descriptor: int) -> None:
        sync(descriptor)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            synced.append(len(files(tmp_path)))

    monkeypatch.setattr(os, "fsync", count)
    assert compact(store)[0] == 2
    assert (synced, len(files(tmp_path))) == ([3], 1)


def test_appending_compacts_nothing_and_says_when_it_is_worth_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(rowstore, "MANY_SEGMENTS", 9)
    caplog.set_level(logging.INFO, "tasks")
    store = filled(tmp_path, *(range(i, i + 1) for i in range(8)))
    store.get(keys_of(np.arange(9)))
    assert caplog.messages == []
    append(store, np.array([8]))
    for _ in range(2):
        holds(store.get(keys_of(np.arange(10))), np.arange(10), set(range(9)))
    assert len(files(tmp_path)) == 9
    (line,) = caplog.messages
    assert "9 segments of `reference`: `python -m tasks.upkeep compact`" in line


def test_large_segments_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    filled(tmp_path, range(400))
    large = files(tmp_path)[0]
    monkeypatch.setattr(compaction, "SMALL_BYTES", large.stat().st_size - 1)
    store = filled(tmp_path, range(400, 402), range(402, 404), range(404, 406))
    assert compact(store)[0] == 3
    assert large in files(tmp_path)
    assert len(files(tmp_path)) == 2
    holds(opened(tmp_path).get(keys_of(np.arange(410))), np.arange(410), set(range(406)))


def writer(folder: Path, first: int, last: int, rows: int) -> subprocess.Popen[str]:
    """Start a process that appends, and wait until it is about to."""
    command = [sys.executable, "-m", "tests.core.row_writer", str(folder), str(first), str(last), str(rows)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def said_safe(process: subprocess.Popen[str], first: int) -> int:
    """Return the row up to which a process that has ended said its rows are safe."""
    assert process.stdout is not None
    lines = [line for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    process.stdout.close()
    process.wait()
    return int(lines[-1]) if lines else first


def test_killed_at_any_point_the_store_holds_what_was_safe_and_nothing_wrong(tmp_path: Path):
    chance, known, every = random.Random(5), set(), np.arange(9000)
    for turn in range(9):
        first = 1000 * turn
        process = writer(tmp_path, first, first + 1000, 7)
        if turn:  # the first is killed in its first append, the others later
            first_safe = int(process.stdout.readline())
            time.sleep(chance.uniform(0.0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        known |= set(range(first, max(said_safe(process, first), first_safe if turn else 0)))
        found = opened(tmp_path).get(keys_of(every))
        there = set(every[found.mask].tolist())
        holds(found, every, there)
        assert known <= there
    assert len(known) > 7 * 8, "rows were written before the kills"


COMPACT = (sys.executable, "-m", "tasks.upkeep", "compact", "reference", "--store")


def test_processes_that_append_and_compact_at_once_lose_nothing_and_readers_see_nothing_wrong(tmp_path: Path):
    # the second and third write the same rows
    writers = [writer(tmp_path, first, first + 300, 2) for first in (0, 300, 300)]
    every, reader, said, before = np.arange(650), opened(tmp_path), "", set[int]()
    compacting = None
    while any(process.poll() is None for process in writers) or compacting is None or compacting.poll() is None:
        if compacting is None or compacting.poll() is not None:
            said += compacting.communicate()[0] if compacting else ""
            compacting = subprocess.Popen([*COMPACT, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        found = reader.get(keys_of(every))
        there = set(every[found.mask].tolist())
        holds(found, every, there)
        assert before <= there, "a row that was there is gone"
        before = there
    said += compacting.communicate()[0]
    assert "segments are one now" in said
    assert [said_safe(process, 0) for process in writers] == [300, 600, 600]
    holds(opened(tmp_path).get(keys_of(every)), every, set(range(600)))
    assert all(segments.NAME.fullmatch(path.name) for path in files(tmp_path)), "no draft is left"


def test_a_row_that_is_merged_while_it_is_looked_up_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reader = filled(tmp_path, range(4), range(4, 8), range(8, 12))
    listed = reader.names()
    assert compact(opened(tmp_path))[0] == 3
    real = Path.iterdir
    lists = [iter(reader.folder / name for name in listed)]  # a folder that was listed just before
    monkeypatch.setattr(Path, "iterdir", lambda path: lists.pop() if lists else real(path))
    holds(reader.get(keys_of(np.arange(15))), np.arange(15), set(range(12)))


def test_two_that_compact_at_once_lose_nothing(tmp_path: Path):
    filled(tmp_path, *(range(i, i + 2) for i in range(40)))
    both = [subprocess.Popen([*COMPACT, str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        (_, errors), status = process.communicate(), process.returncode
        assert status == 0 or "let one `compact` run at a time" in errors
    holds(opened(tmp_path).get(keys_of(np.arange(50))), np.arange(50), set(range(41)))


@pytest.mark.parametrize("moment", ["append", "compact"])
def test_a_full_disk_is_told_as_such_and_leaves_the_store_as_it_was(tmp_path: Path, moment: str):
    with small_disk(tmp_path / "disk", 512) as disk:
        store = filled(disk, *(range(9 * i, 9 * i + 9) for i in range(6)))
        before = files(disk)
        fill(disk)
        with pytest.raises(OSError) as full:
            append(store, np.arange(100, 4000)) if moment == "append" else compact(store)
        told = explain_os_error(full.value)
        assert told is not None
        assert "the disk is full" in told.what
        assert str(disk) in told.what
        assert files(disk) == before
        holds(opened(disk).get(keys_of(np.arange(60))), np.arange(60), set(range(54)))


@pytest.mark.e2e
def test_memory_is_that_of_the_answer_not_of_the_store(tmp_path: Path):
    script = """
import sys
import numpy as np
from pathlib import Path
from tasks.rowstore.row_store import RowStore
def peak():  # of this very process: what getrusage tells begins with that of its parent
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024
draw = np.random.default_rng(0)
keys = draw.integers(0, 256, (40_000, 32)).astype(np.uint8)
store = RowStore.open(sys.argv[1], "reference")
store.append(keys[:100], np.zeros(100 * 1000, np.float32), np.full(100, 1000))
store.get(keys[:100])
before = peak()
for start in range(100, 40_000, 1000):
    part = keys[start : start + 1000]
    store.append(part, draw.random(len(part) * 1000, np.float32), np.full(len(part), 1000))
for start in range(0, 40_000, 1000):
    assert RowStore.open(sys.argv[1], "reference").get(keys[start : start + 1000]).mask.all()
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 80, "40,000 rows of 1,000 values are 160 MB; one answer is 4"


def test_another_scheme_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"`runtime.row_store` is 'gs://rows' — give a folder"):
        RowStore.open("gs://rows", "encode")
    with pytest.raises(ConfigError, match="is no address in S3"):
        RowStore.open("s3://UPPER/rows", "encode")
