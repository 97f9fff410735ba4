"""Sources: globs, what is refused because it moves, and the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import ConfigError, DataError
from tasks.pairs.ingestion.hub import HubDataset, parse_hub
from tasks.pairs.ingestion.intake import read_pairs
from tasks.pairs.ingestion.sources import find_sources
from tasks.pairs.record.pair import Columns
from tests import s3_server
from tests.pairs.samples import text_rows, write_rows

COMMIT = "0123456789abcdef" * 2 + "01234567"


def test_the_matches_of_a_glob_are_sorted(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c/d.jsonl"):
        write_rows(tmp_path / name, text_rows(1))
    assert [s.name for s in find_sources([str(tmp_path / "**/*.jsonl")])] == ["a.jsonl", "b.jsonl", "d.jsonl"]


def test_a_relative_path_names_its_rows_and_an_absolute_one_gives_only_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "raw/a.jsonl", text_rows(1))
    monkeypatch.chdir(tmp_path)
    sources = ["raw/a.jsonl", str(tmp_path / "raw/a.jsonl")]
    assert [next(iter(source.read())).where for source in find_sources(sources)] == ["raw/a.jsonl:1", "a.jsonl:1"]


def test_a_glob_without_a_match_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file matches"):
        find_sources([str(tmp_path / "*.jsonl")])


def names(folder: Path, entry: str = "") -> list[str]:
    return [source.name for source in find_sources([str(folder / entry)])]


def refusal(source: str) -> str:
    with pytest.raises((ConfigError, DataError)) as caught:
        find_sources([source])
    return str(caught.value)


def test_a_folder_gives_its_files_in_order_and_the_log_says_what_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "votes"
    for name in ("b.jsonl", "a.jsonl", "c/d.jsonl.gz"):
        write_rows(folder / name, text_rows(1))
    for name in ("README.md", "LICENSE", "a.jsonl.dvc", ".gitignore", "manifest.json"):
        (folder / name).write_text("{}")
    (folder / "e.csv").touch()
    with caplog.at_level("INFO"):
        assert names(folder) == ["votes/a.jsonl", "votes/b.jsonl", "votes/c/d.jsonl.gz"]
    assert "skipped as no data: .gitignore, LICENSE, README.md, a.jsonl.dvc, manifest.json" in caplog.text
    assert "skipped as empty: e.csv" in caplog.text
    assert names(tmp_path, "*") == names(folder)
    assert names(folder, "*") == ["a.jsonl", "b.jsonl", "c/d.jsonl.gz"]


def test_a_folder_with_a_file_of_no_known_form_is_refused_and_a_glob_helps(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", text_rows(1))
    (tmp_path / "x.bin").write_bytes(b"x")
    message = refusal(str(tmp_path))
    assert f"{tmp_path / 'x.bin'} has no known form" in message
    assert f"{tmp_path}/*.jsonl" in message
    assert names(tmp_path, "*.jsonl") == ["a.jsonl"]


def test_a_folder_with_a_train_and_a_test_file_is_refused_and_its_advice_helps(tmp_path: Path) -> None:
    for name in ("data/train-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl"):
        write_rows(tmp_path / name, text_rows(1))
    message = refusal(str(tmp_path))
    assert "holds the splits test, train" in message
    assert f"{tmp_path}/**/train*" in message
    assert names(tmp_path, "**/train*") == ["train-00000-of-00001.jsonl"]


def test_a_folder_as_spark_writes_it_is_a_source_with_its_partitions_columns(tmp_path: Path) -> None:
    folder = tmp_path / "votes.parquet"
    for number, language in enumerate(("de", "en")):
        part = folder / f"slice={language}/part-0000{number}-c000.snappy.parquet"
        part.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(text_rows(2)), part)
        part.with_name(f".{part.name}.crc").write_bytes(b"crc")
    pq.write_table(pa.Table.from_pylist(text_rows(2))[:0], folder / "part-00002-c000.snappy.parquet")
    (folder / "_SUCCESS").touch()
    (folder / "_metadata").write_bytes(b"x")
    rows = [row.value for source in find_sources([str(folder)]) for row in source.read()]
    assert rows == [{"slice": language, **row} for language in ("de", "en") for row in text_rows(2)]


@pytest.mark.parametrize("source", ["votes", "votes/*/part.jsonl", "votes/**"])
def test_a_partition_s_column_has_the_value_that_was_written(tmp_path: Path, source: str) -> None:
    for name in ("en", "a%2Fb%3Dc", "__HIVE_DEFAULT_PARTITION__"):  # as Spark writes `a/b=c` and null
        write_rows(tmp_path / f"votes/kind={name}/part.jsonl", [{"prompt": "Q"}])
    rows = [row.value for found in find_sources([str(tmp_path / source)]) for row in found.read()]
    assert sorted(str(row["kind"]) for row in rows) == ["None", "a/b=c", "en"]


def test_a_delta_table_is_refused_because_deleted_rows_lie_in_it(tmp_path: Path) -> None:
    write_rows(tmp_path / "_delta_log/0.json", [])
    assert "is a Delta table" in refusal(str(tmp_path))


def test_a_saved_data_set_is_read_and_one_of_several_splits_is_refused_with_their_folders(tmp_path: Path) -> None:
    import datasets

    train = datasets.Dataset.from_list(text_rows(5))
    datasets.DatasetDict(train=train, test=train).save_to_disk(tmp_path / "all")
    message = refusal(str(tmp_path / "all"))
    assert "holds the splits test, train" in message
    assert f"{tmp_path / 'all'}/train" in message
    (tmp_path / "all/train/cache-0123.arrow").write_bytes(b"other rows")
    (source,) = find_sources([str(tmp_path / "all/train")])
    assert [row.value for row in source.read()] == text_rows(5)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3_server.Server]:
    with s3_server.serving(monkeypatch, "votes", "plain") as server:
        server.client.put_bucket_versioning(Bucket="votes", VersioningConfiguration={"Status": "Enabled"})
        yield server


def test_a_version_of_an_object_is_read_and_an_unpinned_one_refused_with_the_version(
    bucket: s3_server.Server, tmp_path: Path
) -> None:
    for count in (3, 5):
        write_rows(tmp_path / "a.jsonl.gz", text_rows(count))
        bucket.client.upload_file(str(tmp_path / "a.jsonl.gz"), "votes", "x/a.jsonl.gz")
    message = refusal("s3://votes/x/a.jsonl.gz")
    pinned = message.split("now: ")[1].split()[0]
    assert pinned.startswith("s3://votes/x/a.jsonl.gz?versionId=")
    (source,) = find_sources([pinned])
    assert source.identity() == pinned
    write_rows(tmp_path / "a.jsonl.gz", text_rows(9))
    bucket.client.upload_file(str(tmp_path / "a.jsonl.gz"), "votes", "x/a.jsonl.gz")
    assert [row.value for row in source.read()] == text_rows(5)
    assert next(iter(source.read())).where == "s3://votes/x/a.jsonl.gz:1"
    with pytest.raises(DataError, match="has no version"):
        list(find_sources(["s3://votes/x/none.jsonl?versionId=abc"])[0].read())


def test_a_bucket_without_versions_is_refused_with_the_import_command(bucket: s3_server.Server) -> None:
    bucket.client.put_object(Bucket="plain", Key="a.csv", Body=b"x")
    for source in ("s3://plain/a.csv", "s3://plain/a.csv?versionId=null"):
        assert "keeps no versions" in refusal(source)
        assert "dvc import-url s3://plain/a.csv data/raw/" in refusal(source)


def test_an_s3_glob_is_refused_with_the_import_command() -> None:
    assert "dvc import-url" in refusal("s3://votes/x/*.jsonl")


def test_an_s3_prefix_is_refused_with_the_import_command() -> None:
    with pytest.raises(ConfigError, match=r"dvc import-url --version-aware s3://bucket/x data/raw/"):
        find_sources(["s3://bucket/x"])


def test_a_hub_source_has_name_commit_configuration_and_split() -> None:
    assert parse_hub(f"hub:org/name@{COMMIT}") == HubDataset("org/name", COMMIT, None, "train")
    assert parse_hub(f"hub:name@{COMMIT}#en/test[:10%]") == HubDataset("name", COMMIT, "en", "test[:10%]")


@pytest.mark.parametrize("source", ["hub:org/name@main", "hub:org/name", "hub:org/name@0123abc", "hub:org/name@"])
def test_a_hub_source_that_can_move_is_refused_even_offline(source: str) -> None:
    with pytest.raises(ConfigError, match="pin a commit of 40 hex digits"):
        parse_hub(source)


def test_a_malformed_hub_source_is_refused_with_the_form() -> None:
    with pytest.raises(ConfigError, match="hub:ORG/NAME@REVISION"):
        parse_hub("hub:a/b/c@x")


def test_read_pairs_takes_rows_at_hand_and_leaves_duplicates_out(caplog: pytest.LogCaptureFixture) -> None:
    rows = [*text_rows(10), text_rows(1)[0], {"prompt": "x", "chosen": True, "rejected": "y"}]
    pairs = list(read_pairs(rows, columns=Columns()))
    assert [pair.prompt for pair in pairs] == [row["prompt"] for row in text_rows(10)]
    assert "'duplicate': 1" in caplog.text
    assert "'not_text': 1" in caplog.text


def test_read_pairs_refuses_data_that_are_mostly_unusable() -> None:
    with pytest.raises(DataError, match=r"3 of 13 rows are no usable pairs \(23.1%\): not_an_object 3"):
        list(read_pairs([*text_rows(10), 1, 2, 3]))
