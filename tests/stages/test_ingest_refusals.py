"""Bad input for the ingest stage: one clear line, and nothing half-written."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import ConfigError, DataError
from tasks.core.params import build
from tasks.ingest import IngestConfig
from tasks.pairs.record.pair import Columns
from tests.conftest import ROOT
from tests.pairs.samples import folder_bytes, text_rows, write_rows
from tests.stages.ingested import ingest, refusal, run


def test_a_truncated_gzip_leaves_nothing_half_written(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl.gz", text_rows(5000))
    source.write_bytes(source.read_bytes()[:-100])
    assert "a.jsonl.gz is a damaged or truncated gzip" in refusal(tmp_path, source)


def test_a_refused_file_leaves_the_older_output_as_it_was(tmp_path: Path) -> None:
    ingest(tmp_path / "out", write_rows(tmp_path / "a.jsonl", text_rows(40)))
    before = folder_bytes(tmp_path / "out")
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(DataError, match=r"a\.jsonl is empty"):
        run(tmp_path / "out", IngestConfig((str(tmp_path / "a.jsonl"),)))
    assert folder_bytes(tmp_path / "out") == before


def test_a_wrong_column_is_refused_with_the_columns_found_and_the_key(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(40))
    told = refusal(tmp_path, source, columns=Columns(chosen="winner"))
    assert "a.jsonl has no column `winner` (it has: prompt, chosen, rejected)" in told
    assert "`ingest.columns`" in told
    assert "`topic`" in refusal(tmp_path, source, columns=Columns(slice="topic"))
    assert "`question`" in refusal(tmp_path, source, columns=Columns(prompt="question"))
    assert "correct the field under `ingest.where`" in refusal(tmp_path, source, where={"lang": "en"})


def test_texts_beside_a_prompt_of_another_name_are_refused_with_the_columns_found(tmp_path: Path) -> None:
    rows = [{"text": f"Q{i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(40)]
    message = refusal(tmp_path, write_rows(tmp_path / "a.jsonl", rows))
    assert "a.jsonl has no column `prompt` (it has: text, chosen, rejected)" in message
    assert "`ingest.columns`" in message


def test_a_column_that_only_one_of_two_files_lacks_is_refused_by_that_file(tmp_path: Path) -> None:
    good = write_rows(tmp_path / "good.jsonl", text_rows(40))
    bad = write_rows(tmp_path / "bad.jsonl", [{"prompt": "P", "better": "a", "worse": "b"}])
    assert "bad.jsonl has no column `chosen`" in refusal(tmp_path, good, bad)


def test_a_filter_value_that_no_row_has_is_refused(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", [{**row, "ok": 1} for row in text_rows(40)])
    assert "leaves no row" in refusal(tmp_path, source, where={"ok": True})


def test_the_log_says_how_many_rows_were_kept_and_why_others_were_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(40))
    with source.open("a") as file:
        file.write('{"prompt": "P", "chosen": \n')
    with caplog.at_level("INFO", logger="tasks"):
        pairs = ingest(tmp_path / "out", source)["pairs"]
    held_out = f"{pairs['train']} pairs to train on, {pairs['test']} held out"
    assert f"41 rows: {held_out}; left out: 1 rejected" in caplog.messages
    assert "rejected: broken_row 1; rejects.jsonl names the rows" in caplog.messages


def test_too_many_unusable_rows_are_refused_with_the_top_reasons(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", [*text_rows(40), *[{"prompt": "P", "chosen": "", "rejected": "b"}] * 10])
    told = refusal(tmp_path, source)
    assert "10 of 50 rows are no usable pairs (20.0%): empty_chosen 10" in told
    assert "`ingest.max_rejected_share`" in told
    assert ingest(tmp_path / "out", source, max_rejected_share=0.2)["rejected"] == {"empty_chosen": 10}


def test_binary_rubbish_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(b"not named so"))
    assert "not UTF-8 text" in refusal(tmp_path, tmp_path / "a.jsonl")


def test_an_empty_side_of_the_split_is_refused(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", [{"prompt": "", "chosen": f"a{i}", "rejected": "b"} for i in range(40)])
    assert "the training set is empty: 0 training and 40 test pairs" in refusal(tmp_path, source)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sources", []),
        ("test_share", 0),
        ("stratify", "yes"),
        ("test_share", 1.0),
        ("limit", 1),
        ("max_rejected_share", 2),
        ("contradictions", "first"),
        ("columns", {"chosn": "x"}),
        ("demo_pairs", 3000),
    ],
)
def test_a_wrong_param_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"ingest.{key}"):
        build(IngestConfig, {"sources": ["demo"], key: value}, "ingest")


def test_a_bad_file_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "params.yaml").write_text("ingest:\n  sources: [empty.jsonl]\nruntime: {}\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tasks.ingest"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith("[ingest] error: empty.jsonl is empty")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data/pairs").exists()


def test_starting_the_stage_loads_no_torch_and_no_transformers() -> None:
    heavy = "('torch', 'transformers', 'datasets')"
    code = f"import sys, tasks.ingest, tasks.encode; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
