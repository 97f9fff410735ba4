"""What a stage says: text for people, JSON for collectors of logs, and the run that it is part of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.telemetry import log
from tests.conftest import ROOT

SCRIPT = """
import dataclasses, logging, sys, warnings
from tasks.telemetry import log
from tasks.core.errors import DataError
from tasks.launch.stage import door

@dataclasses.dataclass(frozen=True)
class Owner:
    size: int = 1

with door("ingest", Owner) as config:
    log.get_logger("tasks.pairs").info("%d rows\\nread", 3)
    logging.getLogger("another").warning("beware")
    warnings.warn("old", UserWarning)
    with log.bar("reading", total=4, unit="row") as bar:
        bar.update(4)
    log.get_logger("tasks.pairs").warning("on every rank")
    if sys.argv[1] == "mistake":
        raise DataError("no rows", "give some")
    if sys.argv[1] == "bug":
        raise ZeroDivisionError("ours")
"""


def said(folder: Path, how: str, **env: str) -> str:
    """What a stage that ends in such a way writes on standard error."""
    (folder / "params.yaml").write_text("ingest: {size: 3}\n")
    words = [sys.executable, "-c", SCRIPT, how]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True).stderr


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_text_stays_what_it_was_and_has_no_run(tmp_path: Path) -> None:
    lines = said(tmp_path, "mistake", DPO_RUN="0b1c").splitlines()
    assert lines[:2] == ["[ingest] 3 rows", "read"]
    assert lines[2] == "[ingest] beware"
    assert lines[-2:] == ["[ingest] on every rank", "[ingest] error: no rows — give some"]


def test_json_is_one_object_a_line_with_time_level_stage_run_and_message(tmp_path: Path) -> None:
    lines = objects(said(tmp_path, "mistake", DPO_LOG_FORMAT="json", DPO_RUN="0b1c"))
    assert {(line["stage"], line["run"]) for line in lines} == {("ingest", "0b1c")}
    assert all(line["time"].endswith("+00:00") and "rank" not in line for line in lines)
    told = [(line["level"], line["message"]) for line in lines if "old" not in line["message"]]
    assert told == [
        ("info", "3 rows\nread"),
        ("warning", "beware"),
        ("info", "reading: 100%, 4 of 4 row"),
        ("warning", "on every rank"),
        ("error", "no rows — give some"),
    ]
    assert any(line["level"] == "warning" and "UserWarning: old" in line["message"] for line in lines)


def test_a_bug_is_one_object_with_its_traceback(tmp_path: Path) -> None:
    last = objects(said(tmp_path, "bug", DPO_LOG_FORMAT="json"))[-1]
    assert (last["level"], last["message"]) == ("critical", "ZeroDivisionError: ours")
    assert last["traceback"].splitlines()[-1] == "ZeroDivisionError: ours"
    assert "run" not in last


def test_off_rank_0_warnings_and_errors_are_told_with_the_rank(tmp_path: Path) -> None:
    lines = objects(said(tmp_path, "well", DPO_LOG_FORMAT="json", RANK="1", WORLD_SIZE="2"))
    ours = [line for line in lines if line["message"] not in ("beware",) and "old" not in line["message"]]
    assert [(line["rank"], line["message"]) for line in ours] == [(1, "on every rank")]


def test_off_rank_0_text_names_the_rank_in_warnings_and_in_the_error(tmp_path: Path) -> None:
    lines = said(tmp_path, "mistake", RANK="1", WORLD_SIZE="2").splitlines()
    assert lines[0] == "[ingest] rank 1: beware"
    assert lines[-2:] == ["[ingest] rank 1: on every rank", "[ingest] error: rank 1: no rows — give some"]
    (last,) = objects(said(tmp_path, "mistake", DPO_LOG_FORMAT="json", RANK="1", WORLD_SIZE="2"))[-1:]
    assert (last["level"], last["rank"], last["message"]) == ("error", 1, "no rows — give some")


def test_what_is_told_for_another_rank_names_that_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log.say("ingest", "no rows", "error", rank=3)
    monkeypatch.setenv("DPO_LOG_FORMAT", "json")
    log.say("ingest", "no rows", "error", rank=3)
    text, line = capsys.readouterr().err.splitlines()
    assert text == "[ingest] error: rank 3: no rows"
    assert (json.loads(line)["rank"], json.loads(line)["message"]) == (3, "no rows")


def test_a_format_that_there_is_not_is_told_and_is_text(tmp_path: Path) -> None:
    first = said(tmp_path, "well", DPO_LOG_FORMAT="jsno").splitlines()[0]
    assert first == "[ingest] DPO_LOG_FORMAT is 'jsno', which is neither text nor json: it is text"
    assert "jsno" not in said(tmp_path, "well", DPO_LOG_FORMAT="jsno", RANK="1", WORLD_SIZE="2"), "once is enough"


def test_the_receipt_names_the_run_where_there_is_one(tmp_path: Path) -> None:
    said(tmp_path, "well", DPO_RUN="0b1c")
    assert json.loads((tmp_path / "runs/receipts/ingest.json").read_text())["run"] == "0b1c"
    said(tmp_path, "well", DPO_RUN="")
    assert "run" not in json.loads((tmp_path / "runs/receipts/ingest.json").read_text())


def test_progress_in_json_is_a_line_every_ten_seconds_and_one_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    with log.JsonBar("train", 8, 2, "step", clock=lambda: now) as bar:
        for _ in range(6):
            now += 4.0
            bar.update()
            bar.set_postfix_str("loss 0.5")
    lines = objects(capsys.readouterr().err)
    assert [line["progress"]["done"] for line in lines] == [5, 8]
    assert lines[1]["message"] == "train: 100%, 8 of 8 step, loss 0.5"
    assert lines[1]["progress"] == {"what": "train", "done": 8, "total": 8, "unit": "step", "note": "loss 0.5"}


def test_progress_of_an_unknown_total_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with log.JsonBar("passes", unit="batch") as bar:
        bar.update(2)
    (line,) = objects(capsys.readouterr().err)
    assert (line["message"], line["progress"]["total"]) == ("passes: 2 batch", None)
