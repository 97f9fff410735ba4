"""`--try` shows how a file is read, `--show` shows tokens as text; both write nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks import encode
from tasks.core.errors import ConfigError, DataError
from tasks.core.files import atomic_folder
from tasks.pairs.encoding.show_rows import show_rows
from tasks.pairs.ingestion.reading import Reading
from tasks.pairs.ingestion.try_file import try_source
from tasks.pairs.tokens.token_cache import TokenPairs, TokenRow, TokenWriter
from tests.conftest import ROOT
from tests.core.test_stage_arguments import run
from tests.pairs.samples import byte_tokenizer, text_rows, write_rows


def ids(text: str) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(byte_tokenizer(None, "<e>").encode(text), dtype=np.int32)


def test_try_says_which_columns_are_read_and_shows_three_pairs(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{**row, "id": i} for i, row in enumerate(text_rows(5))])
    lines = list(try_source(str(path), Reading(), 0.1))
    assert lines[0] == "rows.jsonl: 5 rows read, 5 pairs; prompts are plain text"
    assert lines[1:3] == ["columns read: prompt, chosen, rejected", "columns not read: id"]
    assert lines[3] == "read as standard: the columns of prompt, chosen and rejected"
    assert lines[5:9] == ["rows.jsonl:1", "  prompt   Question 0?", "  chosen   Yes, 0.", "  rejected No."]
    assert sum(line.startswith("  prompt") for line in lines) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_try_refuses_what_the_stage_refuses(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": "?", "output": "!"}])
    with pytest.raises(DataError, match="no column `chosen`"):
        list(try_source(str(path), Reading(), 0.1))


def test_try_from_the_command_line_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    write_rows(tmp_path / "rows.jsonl", text_rows(2))
    done = run(tmp_path, "-m", "tasks.ingest", "--try", "rows.jsonl")
    assert (done.returncode, done.stdout.splitlines()[0][:40]) == (0, "rows.jsonl: 2 rows read, 2 pairs; prompt")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["params.yaml", "rows.jsonl"]


@pytest.mark.parametrize("in_colour", [True, False])
def test_show_marks_the_boundary_and_colours_only_where_asked(tmp_path: Path, in_colour: bool) -> None:
    rows = [TokenRow(ids(f"Q{i}?\n"), ids("Yes."), ids("No.")) for i in range(3)]
    folder = atomic_folder(tmp_path / "tokens", {"stage": "encode", "inputs": {}})
    with folder as draft, TokenWriter(draft, "train") as writer:
        writer.append(TokenPairs.of_rows(rows, [f"{i:016x}" for i in range(3)], ["p"] * 3))
    lines = list(show_rows(tmp_path / "tokens", byte_tokenizer(None, "<e>"), 2, in_colour))
    assert len(lines) == 6
    assert "prompt 4, chosen 4, rejected 3 tokens" in lines[0]
    plain = "  chosen   Q0?\\n|Yes."
    assert lines[1] == (plain if not in_colour else "  chosen   \x1b[2mQ0?\\n\x1b[0m|\x1b[32mYes.\x1b[0m")


def test_show_wants_a_number_of_rows() -> None:
    with pytest.raises(ConfigError, match="whole number above 0"):
        encode.show(encode.Folders(), "many")
