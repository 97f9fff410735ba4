"""The row store in a bucket: the same segments as objects, fetched once, on a real server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tasks.core.errors import NetworkError, StorageError
from tasks.object_store.bucket import Bucket
from tasks.rowstore.row_store import RowStore
from tasks.upkeep.compaction import compact, verify
from tests import s3_server
from tests.core.row_writer import append, holds, keys_of
from tests.s3_server import Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    with s3_server.serving(monkeypatch, "rows") as running:
        yield running


ADDRESS = "s3://rows/team/dpo"


def in_bucket() -> RowStore:
    return RowStore.open(ADDRESS, "reference")


def test_rows_in_a_bucket_are_found_on_another_machine_and_fetched_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    every = np.arange(30)
    assert not in_bucket().get(keys_of(every)).mask.any()
    for start in (0, 10):
        append(in_bucket(), np.arange(start, start + 10))
    names = server.names("rows")
    assert len(names) == 2
    assert all(name.startswith("team/dpo/reference/") and name.endswith(".parquet") for name in names)
    monkeypatch.chdir(tmp_path / "other")
    holds(in_bucket().get(keys_of(every)), every, set(range(20)))
    assert len(list(Path("runs/rows").rglob("*.parquet"))) == 2
    for name in names:  # the bytes are here: what the bucket holds now is not asked for again
        server.client.put_object(Bucket="rows", Key=name, Body=b"")
    holds(in_bucket().get(keys_of(every)), every, set(range(20)))


def test_a_damaged_object_is_passed_over(server: Server, caplog: pytest.LogCaptureFixture):
    append(in_bucket(), np.arange(10))
    (name,) = server.names("rows")
    server.client.put_object(Bucket="rows", Key=name, Body=b"torn")
    shutil.rmtree("runs")
    server.client.put_object(Bucket="rows", Key="team/dpo/reference/README", Body=b"not ours")
    holds(in_bucket().get(keys_of(np.arange(10))), np.arange(10), set())
    assert "is damaged" in caplog.text


def test_many_objects_become_one_and_others_follow(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    every = np.arange(30)
    monkeypatch.chdir(tmp_path / "other")
    reader = in_bucket()
    append(in_bucket(), np.arange(5))
    holds(reader.get(keys_of(every)), every, set(range(5)))
    monkeypatch.chdir(tmp_path / "one")
    own = in_bucket()
    for start in (5, 10, 15):
        append(own, np.arange(start, start + 5))
    assert compact(own)[0] == 4
    assert len(server.names("rows")) == 1
    monkeypatch.chdir(tmp_path / "other")
    holds(in_bucket().get(keys_of(every)), every, set(range(20)))
    assert len(list(Path("runs/rows").rglob("*.parquet"))) == 1, "what was compacted away is gone here too"


def test_a_segment_that_is_merged_while_the_new_ones_are_fetched_is_no_loss(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for start in (0, 5, 10):
        append(in_bucket(), np.arange(start, start + 5))
    reader, compacted = RowStore(tmp_path / "fetched", "reference", Bucket(ADDRESS)), list[int]()

    def compact_after_the_listing(parsed: object, **_: object) -> None:
        if not compacted:
            compacted.append(0)
            compacted[0] = compact(in_bucket())[0]

    assert reader._bucket is not None
    reader._bucket.client.meta.events.register("after-call.s3.ListObjectsV2", compact_after_the_listing)
    holds(reader.get(keys_of(np.arange(20))), np.arange(20), set(range(15)))
    assert compacted == [3]


def test_a_bucket_that_does_not_exist_is_one_clear_error(server: Server):
    with pytest.raises(StorageError, match=r"listing s3://nobody/x: .*NoSuchBucket.* — make the bucket"):
        RowStore.open("s3://nobody/x", "encode").get(keys_of(np.arange(1)))


def test_missing_credentials_are_one_clear_error(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StorageError, match=r"Unable to locate credentials — set AWS_ACCESS_KEY_ID, or AWS_PROFILE"):
        in_bucket().get(keys_of(np.arange(1)))


@pytest.mark.parametrize(
    ("url", "error"),
    [pytest.param("http://127.0.0.1:9", NetworkError, marks=pytest.mark.e2e), ("nonsense", StorageError)],  # it retries
)
def test_a_server_that_is_not_there_is_one_clear_error(
    server: Server, monkeypatch: pytest.MonkeyPatch, url: str, error: type[Exception]
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(error, match=r"s3://rows/team/dpo: .* — .*AWS_ENDPOINT_URL"):
        in_bucket().get(keys_of(np.arange(1)))


def test_a_fetched_segment_that_somebody_deleted_is_fetched_again(server: Server):
    append(in_bucket(), np.arange(5))
    (kept,) = Path("runs/rows").rglob("*.parquet")
    reader = in_bucket()
    holds(reader.get(keys_of(np.arange(9))), np.arange(9), set(range(5)))
    kept.unlink()
    holds(in_bucket().get(keys_of(np.arange(9))), np.arange(9), set(range(5)))


def test_what_is_no_segment_stays_in_the_folder_of_fetched_ones(server: Server):
    append(in_bucket(), np.arange(5))
    (kept,) = Path("runs/rows").rglob("*.parquet")
    foreign = kept.with_name("notes.parquet")
    foreign.write_bytes(b"a table of somebody")
    assert in_bucket().get(keys_of(np.arange(5))).mask.all()
    assert foreign.is_file()


def test_a_damaged_object_counts_when_the_store_is_verified(server: Server):
    append(in_bucket(), np.arange(10))
    append(in_bucket(), np.arange(10, 20))
    assert verify(in_bucket()) == (2, 0)
    server.client.put_object(Bucket="rows", Key=server.names("rows")[0], Body=b"torn")
    shutil.rmtree("runs")
    assert verify(in_bucket()) == (2, 1)
    assert compact(in_bucket())[0] == 0
