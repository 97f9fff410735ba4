"""Data sets of the hub: read as they come, from a real server, with its faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tests.conftest import ROOT
from tests.pairs.samples import OneDatasetHub, json_lines, text_rows

COMMIT = OneDatasetHub.commit
CODE = """
import datasets
from tasks.core.errors import PipelineError
from tasks.pairs.ingestion.intake import read_pairs
datasets.config.STREAMING_READ_MAX_RETRIES, datasets.config.STREAMING_READ_RETRY_INTERVAL = 1, 0
for source in {sources!r}:
    try:
        pairs = list(read_pairs(source))
        print(len(pairs), pairs[-1].prompt, pairs[-1].source)
    except PipelineError as error:
        print(f"{{type(error).__name__}}: {{error}}")
"""


class Hub(OneDatasetHub):
    """A hub with sound, broken and cut data sets."""

    files: ClassVar[dict[str, bytes]] = {
        "name": json_lines(text_rows(20)),
        "long": json_lines({**row, "chosen": "x" * 1000 + row["chosen"]} for row in text_rows(12_000)),
        "broken": json_lines(text_rows(20))[:-40] + b"\n" + json_lines(text_rows(3)),
        "mixed": json_lines([*text_rows(20), {"prompt": "P", "chosen": 5, "rejected": "b"}]),
        "cut": json_lines(text_rows(200)),
    }
    cut = frozenset(("cut",))


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def ask(hub: str, home: Path, *sources: str, is_offline: bool = False) -> list[str]:
    """Return what reading each source says, in a process of its own, for the client reads its settings once."""
    env = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(home), "PYTHONPATH": str(ROOT)}
    env |= {"HF_HUB_OFFLINE": str(int(is_offline)), "HF_HUB_ETAG_TIMEOUT": "1"}
    code = CODE.format(sources=sources)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_pinned_data_set_is_streamed_each_time_and_nothing_of_it_stays_on_the_disk(hub: str, tmp_path: Path) -> None:
    said = ask(hub, tmp_path, *[f"hub:org/long@{COMMIT}"] * 2)
    assert said == ["12000 Question 11999? hub:org/long#train:12000"] * 2
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 10_000
    assert Hub.asked["long"] >= 2 * len(Hub.files["long"]) // (5 << 20), "pieces of 5 MB, twice"


def test_what_is_wrong_with_a_source_is_one_error_that_names_it(hub: str, tmp_path: Path) -> None:
    names = (f"name@{COMMIT}#none", f"broken@{COMMIT}", f"other@{COMMIT}", "name@main", f"mixed@{COMMIT}")
    split, broken, absent, branch, mixed = ask(hub, tmp_path, *(f"hub:org/{name}" for name in names))
    assert split.startswith("DataError: hub:org/name@aaaaaaaaaaaa#none cannot be read")
    assert "none" in split
    assert "train" in split
    assert broken.startswith("DataError: hub:org/broken@aaaaaaaaaaaa#train cannot be read")
    assert f"hf download org/broken --repo-type dataset --revision {COMMIT}" in broken
    assert absent.startswith(("ConfigError: the Hub", "DataError: hub:org/other@aaaaaaaaaaaa#train cannot be read"))
    assert "hub:org/other@aaaaaaaaaaaa#train" in absent
    assert branch.startswith("ConfigError: `ingest.sources`: 'hub:org/name@main' moves with `main`")
    assert branch.endswith(f"pin the commit that it stands at now: hub:org/name@{COMMIT}")
    assert mixed == "20 Question 19? hub:org/mixed#train:20", "a number among texts is one rejected row"


@pytest.mark.nightly  # the client tries again for a while
def test_an_answer_that_ends_in_its_middle_is_an_error_and_no_short_data_set(hub: str, tmp_path: Path) -> None:
    (line,) = ask(hub, tmp_path, f"hub:org/cut@{COMMIT}")
    assert line.startswith("NetworkError: ")
    assert "hub:org/cut@aaaaaaaaaaaa#train" in line


def test_a_part_of_a_split_is_read_by_way_of_the_cache_which_then_serves_without_the_hub(
    hub: str, tmp_path: Path
) -> None:
    assert ask(hub, tmp_path, f"hub:org/name@{COMMIT}#train[:5]") == ["5 Question 4? hub:org/name#train[:5]:5"]
    assert ask(hub, tmp_path, f"hub:org/name@{COMMIT}", is_offline=True) == ["20 Question 19? hub:org/name#train:20"]
    (line,) = ask(hub, tmp_path, f"hub:org/long@{COMMIT}", is_offline=True)
    assert line.startswith(("NetworkError: ", "DataError: "))


def test_the_files_of_a_broken_data_set_are_read_as_files_as_the_message_says(tmp_path: Path) -> None:
    from tasks.pairs.ingestion.intake import read_pairs

    (tmp_path / "train.jsonl").write_bytes(Hub.files["broken"])
    assert len(list(read_pairs(str(tmp_path / "train.jsonl")))) == 19
    assert json.loads(Hub.files["name"].splitlines()[0]) == text_rows(1)[0]
