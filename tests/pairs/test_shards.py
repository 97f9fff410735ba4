"""Shards of train and test: their bytes depend on their pairs alone, and known ones are copied."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.dvc_project.new_data import pair_ids
from tasks import ingest
from tasks.core import paths
from tasks.core.files import manifest_digest, sha256_file, table_files
from tasks.core.params import build
from tasks.ingest import IngestConfig
from tasks.judges.evidence.leakage import measure_leakage
from tasks.judges.protocol.conversations import rows_of
from tasks.pairs.ingestion import shards, text_formats
from tasks.pairs.record.pair import Pair
from tasks.pairs.record.parquet import count_pairs, stored_pairs
from tests.pairs.samples import text_rows, write_rows

SIDES = ("train", "test")


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_formats, "BLOCK_BYTES", 500)  # about ten rows
    monkeypatch.setattr(shards, "CHARACTERS", 500)  # about two parts


def run(folder: Path, rows: list[dict[str, Any]], parts: Path | None = None, **section: Any) -> Path:
    """Ingest the rows, and return the folder of the pairs."""
    source = write_rows(folder / "a.jsonl", rows)
    config = build(IngestConfig, {"sources": [str(source)], "test_share": 0.3, **section}, "ingest")
    ingest.run(ingest.Folders(folder / "pairs"), config, None, parts)
    return folder / "pairs"


def pairs_of(pairs: Path, side: str) -> list[Pair]:
    return [pair for batch in stored_pairs(pairs / f"{side}.parquet") for pair in batch]


def hashes(pairs: Path) -> dict[str, str]:
    return {
        f"{side}/{path.name}": sha256_file(path) for side in SIDES for path in table_files(pairs / f"{side}.parquet")
    }


def writes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The shards that are written from now on."""
    written: list[Any] = []
    write = shards._write
    monkeypatch.setattr(shards, "_write", lambda *args: (written.append(args[3]), write(*args)))
    return written


def test_the_pairs_stand_in_their_order_whatever_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several = run(tmp_path / "several", text_rows(200))
    monkeypatch.setattr(shards, "CHARACTERS", 1 << 40)
    one = run(tmp_path / "one", text_rows(200))
    assert len(table_files(several / "train.parquet")) > 5
    assert len(table_files(one / "train.parquet")) == 1
    for side in SIDES:
        without_source = [pair.content_json + pair.chosen for pair in pairs_of(one, side)]
        assert [pair.content_json + pair.chosen for pair in pairs_of(several, side)] == without_source
        assert count_pairs(several / f"{side}.parquet") == len(without_source)


def test_known_shards_are_copied_and_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, parts = text_rows(220), tmp_path / "parts"
    run(tmp_path, rows[:200], parts)
    before = hashes(tmp_path / "pairs")
    written = writes(monkeypatch)
    pairs = run(tmp_path, rows, parts)
    assert 0 < len(written) < len(before) / 3
    after, digest = hashes(pairs), manifest_digest(pairs, "ingest")
    assert len(before.items() - after.items()) <= 4, "the last shard alone is another one"
    for known in (None, tmp_path / "empty"):
        assert manifest_digest(run(tmp_path, rows, known), "ingest") == digest

    written.clear()
    assert manifest_digest(run(tmp_path, rows, parts), "ingest") == digest
    assert not written


@pytest.mark.parametrize("section", [{"limit": 90}, {"test_share": 0.5}, {"contradictions": "keep"}])
def test_old_rows_whose_verdict_is_another_one_are_written_anew(tmp_path: Path, section: dict[str, Any]) -> None:
    rows, parts = text_rows(120), tmp_path / "parts"
    run(tmp_path, rows, parts)
    rows.append({**rows[3], "chosen": rows[3]["rejected"], "rejected": rows[3]["chosen"]})  # a contradiction far behind
    warm = manifest_digest(run(tmp_path, rows, parts, **section), "ingest")
    assert warm == manifest_digest(run(tmp_path, rows, **section), "ingest")


def test_another_weight_of_a_source_makes_other_shards(tmp_path: Path) -> None:
    parts, entry = tmp_path / "parts", {"path": str(tmp_path / "a.jsonl"), "weight": 2}
    run(tmp_path, text_rows(60), parts)
    pairs = run(tmp_path, text_rows(60), parts, sources=[entry])
    assert {pair.weight for side in SIDES for pair in pairs_of(pairs, side)} == {2}


@pytest.mark.parametrize("damage", [b"", b"PAR1", None])
@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_a_damaged_shard_is_written_again(tmp_path: Path, kind: str, damage: bytes | None) -> None:
    parts = tmp_path / "parts"
    digest = manifest_digest(run(tmp_path, text_rows(60), parts), "ingest")
    for path in (parts / "shards").glob(f"*.{kind}"):
        data = path.read_bytes()
        path.write_bytes(data[:50] + b"x" + data[51:] if damage is None else damage)
    for _ in range(2):
        assert manifest_digest(run(tmp_path, text_rows(60), parts), "ingest") == digest
    for path in (parts / "shards").glob("*.parquet"):
        assert sha256_file(path) == path.stem


def test_files_of_the_cache_are_no_links_to_the_output(tmp_path: Path) -> None:
    pairs = run(tmp_path, text_rows(60), tmp_path / "parts")
    run(tmp_path, text_rows(60), tmp_path / "parts")
    files = [path for side in SIDES for path in table_files(pairs / f"{side}.parquet")]
    assert {path.stat().st_nlink for path in [*files, *(tmp_path / "parts/shards").iterdir()]} == {1}


def test_pairs_of_single_answers_are_written_in_each_run(tmp_path: Path) -> None:
    thumbs = [{"prompt": f"Question {i // 2}?", "completion": f" Answer {i}.", "label": i % 2 == 0} for i in range(40)]
    digest = manifest_digest(run(tmp_path, thumbs, tmp_path / "parts"), "ingest")
    assert manifest_digest(run(tmp_path, thumbs, tmp_path / "parts"), "ingest") == digest
    assert not list((tmp_path / "parts").rglob("*.json"))


def test_shards_that_no_run_used_for_a_day_are_removed(tmp_path: Path) -> None:
    run(tmp_path, text_rows(60), tmp_path / "parts")
    folder = tmp_path / "parts/shards"
    used = set(folder.iterdir())
    for name in ("old.parquet", "new.parquet"):
        (folder / name).write_bytes(b"")
    for path in [*used, folder / "old.parquet"]:
        os.utime(path, (time.time() - 90000,) * 2)
    run(tmp_path, text_rows(60), tmp_path / "parts")
    assert set(folder.iterdir()) == used | {folder / "new.parquet"}


def test_a_split_in_one_file_and_in_a_folder_read_the_same(tmp_path: Path) -> None:
    folders = run(tmp_path, text_rows(120))
    files = tmp_path / "older"
    files.mkdir()
    for side in SIDES:
        pq.write_table(pq.read_table(folders / f"{side}.parquet"), files / f"{side}.parquet")
    both = (folders, files)
    for side in SIDES:
        one, other = (pairs_of(pairs, side) for pairs in both)
        assert one == other
        one_rows, other_rows = (list(rows_of(pairs / f"{side}.parquet", ["pair_id", "chosen"])) for pairs in both)
        assert one_rows == other_rows
        assert len(one_rows) == len(one) > 20
    asked = [pair.prompt_id for pair in pairs_of(folders, "test")]
    first, second = (measure_leakage(pairs, asked, ngram=2) for pairs in both)
    assert first == second
    for place, pairs in (("a", folders), ("b", files)):
        shutil.copytree(pairs, tmp_path / place / paths.PAIRS)
    assert (
        pair_ids(tmp_path / "a")
        == pair_ids(tmp_path / "b")
        == {p.pair_id for side in SIDES for p in pairs_of(files, side)}
    )
