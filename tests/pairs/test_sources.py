"""Sources: globs, what is refused because it moves, and the hub."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.core.errors import ConfigError, DataError
from tasks.pairs.ingestion.hub import HubDataset, parse_hub
from tasks.pairs.ingestion.intake import read_pairs
from tasks.pairs.ingestion.sources import find_sources
from tasks.pairs.record.pair import Columns
from tests.conftest import ROOT
from tests.pairs.samples import OneDatasetHub, text_rows, write_rows

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


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), OneDatasetHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def ask_hub(hub: str, home: Path, code: str) -> str:
    env = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_pinned_hub_data_set_is_read_and_a_branch_is_refused_with_its_commit(hub: str, tmp_path: Path) -> None:
    said = ask_hub(
        hub,
        tmp_path,
        f"""
from tasks.core.errors import PipelineError
from tasks.pairs.ingestion.intake import read_pairs
print(len(list(read_pairs("hub:org/name@{OneDatasetHub.commit}"))))
for source in ("hub:org/name@main#train", "hub:org/name@{OneDatasetHub.commit}#none"):
    try:
        list(read_pairs(source))
    except PipelineError as error:
        print(error)
""",
    ).splitlines()
    assert said[0] == "20"
    assert f"hub:org/name@{OneDatasetHub.commit}#train" in said[1]
    assert 'Unknown split "none"' in said[2]


def test_read_pairs_takes_rows_at_hand_and_leaves_duplicates_out(caplog: pytest.LogCaptureFixture) -> None:
    rows = [*text_rows(10), text_rows(1)[0], {"prompt": "x", "chosen": True, "rejected": "y"}]
    pairs = list(read_pairs(rows, columns=Columns()))
    assert [pair.prompt for pair in pairs] == [row["prompt"] for row in text_rows(10)]
    assert "'duplicate': 1" in caplog.text
    assert "'not_text': 1" in caplog.text


def test_read_pairs_refuses_data_that_are_mostly_unusable() -> None:
    with pytest.raises(DataError, match=r"3 of 13 rows are no usable pairs \(23.1%\): not_an_object 3"):
        list(read_pairs([*text_rows(10), 1, 2, 3]))
