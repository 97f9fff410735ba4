"""Parts of pairs: any process makes the same, a run uses those of the run before, and to lose one costs nothing."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tasks import ingest
from tasks.core.errors import DataError, StorageError
from tasks.core.files import explain_os_error, manifest_digest
from tasks.core.params import build
from tasks.ingest import IngestConfig
from tasks.pairs.forms.choose import FormSettings
from tasks.pairs.forms.groups import AnswerStore, Entry
from tasks.pairs.forms.known import KNOWN
from tasks.pairs.forms.singles import Single, Singles
from tasks.pairs.ingestion import parts as parts_module
from tasks.pairs.ingestion import selection, text_formats
from tasks.pairs.ingestion.counts import Counts
from tasks.pairs.ingestion.part_processes import PartProcesses
from tasks.pairs.ingestion.parts import PartFolder, read_columns, read_part, write_part
from tasks.pairs.ingestion.placement import Placement
from tasks.pairs.ingestion.reading import Reading
from tasks.pairs.ingestion.row_taker import RowTaker
from tasks.pairs.record.pair import Columns, Pair
from tasks.pairs.record.rejection import Rejection
from tests.pairs.samples import text_rows, write_rows
from tests.small_disk import small_disk


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_formats, "BLOCK_BYTES", 500)  # about ten rows
    monkeypatch.setattr(parts_module, "_SMALL", 0)


def run(folder: Path, source: Path, processes: int = 1, **section: Any) -> tuple[str, dict[str, Any]]:
    """The digest of the pairs, and the metrics."""
    config = build(IngestConfig, {"sources": [str(source)], "test_share": 0.3, **section}, "ingest")
    metrics = ingest.run(ingest.Folders(folder / "pairs"), config, None, folder / "parts", processes)
    return manifest_digest(folder / "pairs", "ingest"), metrics


def parts(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in (folder / "parts").iterdir() if path.is_file()}


def odd_rows() -> list[dict[str, Any]]:
    """Pairs, a duplicate, a contradiction, and rows that are rejected, far from each other."""
    rows = text_rows(120)
    swapped = {**rows[3], "chosen": rows[3]["rejected"], "rejected": rows[3]["chosen"]}
    return [*rows, rows[5], swapped, {**rows[0], "chosen": " "}, {**rows[1], "id": 7}]


def test_processes_and_known_parts_change_no_byte(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", odd_rows())
    one, metrics = run(tmp_path / "one", source)
    assert metrics["left_out"] == run(tmp_path / "two", source, processes=2)[1]["left_out"]
    assert len(parts(tmp_path / "one")) > 5
    assert (tmp_path / "one/pairs/rejects.jsonl").read_bytes() == (tmp_path / "two/pairs/rejects.jsonl").read_bytes()
    before = parts(tmp_path / "one")
    assert {one, run(tmp_path / "one", source)[0], run(tmp_path / "two", source)[0]} == {one}
    assert parts(tmp_path / "one") == before


def test_rows_that_are_appended_cost_their_own_block_alone(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(120))
    run(tmp_path, source)
    before = parts(tmp_path)
    with source.open("a") as stream:
        stream.write(json.dumps({"prompt": "A new one", "chosen": "Yes.", "rejected": "No."}) + "\n")
    grown, metrics = run(tmp_path, source)
    assert metrics["rows_read"] == 121
    assert len(parts(tmp_path).items() - before.items()) == 1
    assert run(tmp_path / "anew", source)[0] == grown


@pytest.mark.parametrize("damage", [b"", b"PAR1", None])
def test_a_damaged_part_is_made_again(tmp_path: Path, damage: bytes | None) -> None:
    source = write_rows(tmp_path / "a.jsonl", odd_rows())
    first, _ = run(tmp_path, source)
    path = sorted((tmp_path / "parts").iterdir())[2]
    path.write_bytes(path.read_bytes()[:-30] if damage is None else damage)
    assert run(tmp_path, source)[0] == first


@pytest.mark.parametrize("section", [{"columns": {"chosen": "rejected", "rejected": "chosen"}}, {"split_seed": 1}])
def test_other_settings_use_no_part_of_these(tmp_path: Path, section: dict[str, Any]) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(60))
    run(tmp_path, source)
    assert run(tmp_path, source, **section)[0] == run(tmp_path / "anew", source, **section)[0]


def test_an_evaluation_set_that_is_read_otherwise_keeps_out_other_prompts(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(60))
    sets = write_rows(tmp_path / "bench.jsonl", [{"task": "Question 7?", "note": "Question 8?", "kind": "x"}])
    for keys in ({"columns": {"prompt": "task"}}, {"columns": {"prompt": "note"}}):
        keep_out = [{"path": str(sets), **keys}]
        assert run(tmp_path, source, keep_out=keep_out)[0] == run(tmp_path / "anew", source, keep_out=keep_out)[0]
        shutil.rmtree(tmp_path / "anew")


def test_an_evaluation_set_counts_though_another_one_has_its_name(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(60))
    sets = [write_rows(tmp_path / name / "bench.jsonl", [{"prompt": name}]) for name in ("one", "two")]
    for question in ("Something else", "Question 7?"):
        write_rows(sets[0], [{"prompt": question}])
        _, metrics = run(tmp_path, source, keep_out=[str(path) for path in sets])
    assert metrics["left_out"]["kept_out"] == 1


def test_answers_that_wait_for_other_rows_are_read_in_each_run(tmp_path: Path) -> None:
    thumbs = [{"prompt": f"Q{i % 40}?", "completion": f"Answer {i}.", "label": i < 40} for i in range(80)]
    source = write_rows(tmp_path / "a.jsonl", thumbs)
    first, metrics = run(tmp_path, source, processes=2)
    assert metrics["pairs"]["train"] + metrics["pairs"]["test"] == 40
    assert run(tmp_path, source)[0] == first


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_far_behind_names_the_file_and_the_line(tmp_path: Path, processes: int) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(60))
    source.write_bytes(source.read_bytes() + b'{"prompt": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"a.jsonl is not UTF-8 text: byte 0xe9 in line 61 — convert it"):
        run(tmp_path, source, processes)


def flip(path: Path, place: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_part_with_a_changed_bit_is_refused_and_made_anew_by_the_next_run(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", odd_rows())
    first, _ = run(tmp_path, source)
    path = sorted((tmp_path / "parts").glob("*.parquet"))[2]
    group = pq.read_metadata(path).row_group(0)
    for name in ("chosen", "split_key", "prompt_length"):
        column = next(group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == name)
        flip(path, (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 2)
        shutil.rmtree(tmp_path / "parts/shards")  # else the texts are not read again
        with pytest.raises(StorageError, match=r"parquet was damaged, and is removed \(.*\) — run again: its rows are"):
            run(tmp_path, source)
        assert run(tmp_path, source)[0] == first


def test_a_part_of_long_answers_without_a_counterpart_can_be_read(tmp_path: Path) -> None:
    lone = Rejection("a.jsonl:1", "unpaired", "no other answer", kept="word " * 4_000_000)
    write_part(tmp_path / "a.parquet", [Pair("Q", "yes", "no"), *[lone] * 6], Placement(), Counts())
    assert read_columns(tmp_path / "a.parquet", ["chosen"]).to_pylist() == [{"chosen": "yes"}]
    assert read_part(tmp_path / "a.parquet") is None, "it is made anew"


def test_columns_are_named_in_their_order_by_known_parts_too(tmp_path: Path) -> None:
    rows = [{"z": 1, **row, "a": 2} for row in text_rows(30)]
    source = write_rows(tmp_path / "a.jsonl", rows)
    for _ in range(2):
        with pytest.raises(DataError, match=r"has no column `promt` \(it has: z, prompt, chosen, rejected, a\)"):
            run(tmp_path, source, columns={"prompt": "promt"})


def test_a_column_whose_name_is_half_a_surrogate_pair_is_named_by_its_escape(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", [{**row, "\ud83d": 1} for row in text_rows(30)])
    for _ in range(2):
        assert run(tmp_path, source)[1]["columns_not_read"] == {"a.jsonl": ["\\ud83d"]}
    with pytest.raises(DataError, match=r"it has: prompt, chosen, rejected, .ud83d"):
        run(tmp_path, source, columns={"prompt": "promt"})


def test_a_full_disk_is_named_with_the_part(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(400))
    with small_disk(tmp_path / "parts", 64) as folder:
        with pytest.raises(OSError, match="No space left") as told:
            run(tmp_path, source)
        error = explain_os_error(told.value)
        assert error is not None
        assert re.fullmatch(rf"writing or reading {folder}/[0-9a-f]+.parquet: the disk is full", error.what)
        assert not list(folder.glob("*.draft"))


def test_a_file_that_another_run_removes_meanwhile_is_no_error(tmp_path: Path) -> None:
    with PartFolder(tmp_path, Placement(), {}):
        (tmp_path / "gone.draft").symlink_to("nothing")  # is listed, and cannot be looked at


def _die(_: Placement) -> None:
    os._exit(9)


def _handler(_: Placement) -> Any:
    return signal.getsignal(signal.SIGINT)


def test_a_killed_process_is_one_error_now_and_for_what_comes_later() -> None:
    processes = PartProcesses(1, Placement(), _die)
    wait = processes.begin()
    for call in (wait, processes.begin):
        with pytest.raises(StorageError, match=r"a process that reads rows was killed, .* — free some memory"):
            call()
    processes.close()


def test_an_interrupt_is_for_the_main_process_alone() -> None:
    processes = PartProcesses(1, Placement(), _handler)
    assert processes.begin()() == signal.SIG_IGN
    processes.close()


def test_processes_end_with_a_main_process_that_is_killed() -> None:
    code = (
        "import sys, time, tests.pairs.test_parts as t; processes = t.PartProcesses(1, t.Placement(), t.process_id); "
        "print(processes.begin()(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as main:
        assert main.stdout
        worker = int(main.stdout.readline())
        assert is_running(worker)
        main.kill()
    until = time.monotonic() + 10
    while is_running(worker) and time.monotonic() < until:
        time.sleep(0.02)
    assert not is_running(worker)


def is_running(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and ") Z " not in status.read_text()  # Z: ended, and nobody waited for it


def process_id(_: Placement) -> int:
    return os.getpid()


def test_parts_that_no_run_used_for_a_day_are_removed(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(40))
    run(tmp_path, source)
    kept = set(parts(tmp_path))
    old, new = tmp_path / "parts/old.parquet", tmp_path / "parts/new.parquet"
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    run(tmp_path, source)
    assert set(parts(tmp_path)) == kept | {"new.parquet"}


@pytest.mark.parametrize("name", [form.name for form in KNOWN])
def test_every_form_reaches_another_process(name: str) -> None:
    taker = RowTaker(Reading(forms=FormSettings(name)), ())
    assert pickle.loads(pickle.dumps(taker)).reader.about == taker.reader.about


def test_scores_and_traces_that_different_processes_read_are_joined(tmp_path: Path) -> None:
    traces = [{"id": f"t{i}", "timestamp": "2026", "input": f"{i % 30}?", "output": f"{i}."} for i in range(60)]
    scores = [{"traceId": f"t{i}", "name": "user", "value": int(i < 30)} for i in range(60)]
    source = write_rows(tmp_path / "traces.jsonl", traces)
    other = str(write_rows(tmp_path / "scores.jsonl", scores))
    first, metrics = run(tmp_path / "two", source, 2, sources=[str(source), other])
    assert metrics["pairs"]["train"] + metrics["pairs"]["test"] == 30
    assert run(tmp_path / "one", source, sources=[str(source), other])[0] == first


def test_a_full_disk_of_temporary_files_is_one_error() -> None:
    store = AnswerStore()
    store._execute("PRAGMA max_page_count = 10")
    entry = Entry(Single({"prompt": "Q?"}, "word " * 1000, "up"), "a:1", Singles(name="thumbs"), Columns(), 0)
    with pytest.raises(StorageError, match="free some space in the folder for temporary files"):
        store.extend([entry] * 100)


def test_reading_rows_imports_no_pandas_and_others_still_can() -> None:
    code = (
        "import sys; from tasks.pairs.record.parquet import pa; rows = pa.table({'a': pa.array(['x'])});"
        "assert 'pandas' not in sys.modules; assert rows.to_pandas()['a'][0] == 'x'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"limit": 40},
        {"stratify": True},
        {"near_duplicates": "minhash"},
        {"contradictions": "keep"},
        {"sources": [{"path": "a.jsonl", "limit": 50}, {"path": "b.jsonl", "split": "test"}], "test_share": 0},
        {"sources": [{"path": "a.jsonl", "split": "train"}, "b.jsonl"]},
    ],
    ids=str,
)
def test_pairs_that_are_joined_share_by_share_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = write_rows(Path("a.jsonl"), odd_rows())
    write_rows(
        Path("b.jsonl"), odd_rows()[::3] + [{**row, "prompt": f"Another {i}?"} for i, row in enumerate(odd_rows())]
    )
    whole = run(Path("one"), source, **section)
    monkeypatch.setattr(selection, "_SHARE_ROWS", 9)
    assert run(Path("two"), source, **section) == whole
