"""JSON Lines: equal rows are equal bytes, and a damaged line is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.errors import ArtifactError
from tasks.core.json_lines import json_line, read_json_lines, write_json_lines


def test_rows_come_back_as_they_were_and_keys_stand_in_order(tmp_path: Path) -> None:
    rows = [{"b": "é\u2028\n", "a": 1.5}, {"a": None}]
    write_json_lines(tmp_path / "x.jsonl", rows)
    assert (tmp_path / "x.jsonl").read_text().splitlines()[0] == '{"a": 1.5, "b": "é'  # U+2028 ends no JSON line
    assert list(read_json_lines(tmp_path / "x.jsonl", "encode")) == rows


def test_a_nan_is_no_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_line({"score": float("nan")})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": ', r"line 2 of .*x\.jsonl is not JSON"),
        (b'{"a": 1}\n[1]\n', r"x\.jsonl:2 holds list, not an object"),
        (b'{"a": 1}\n{"b": 1}\n', r"x\.jsonl:2 has no `a`"),
        (b"\xff\n", r"x\.jsonl is not UTF-8 text"),
        (None, r"x\.jsonl is missing"),
    ],
)
def test_what_is_not_as_its_stage_writes_it_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(ArtifactError, match=message + r".* — run `dvc repro -f encode`"):
        list(read_json_lines(tmp_path / "x.jsonl", "encode", ("a",)))
