"""Artifacts: how far a stage is, read from what it prints, and the curves of the report."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from flows.prefect_ui.artifacts import curves, progress_of
from tasks.telemetry import log


def test_a_bars_line_tells_its_percentage() -> None:
    line = "reference:  45%|████▌     | 9/20 [00:10<00:12]"
    assert progress_of(line) == (45.0, line)


def test_a_json_line_of_a_stage_tells_its_share_and_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    with log.JsonBar("train", 40, unit="step") as bar:
        bar.update(18)
    assert progress_of(capsys.readouterr().err.strip()) == (45.0, "train: 45%, 18 of 40 step")


@pytest.mark.parametrize("line", ["[train] 45% done", '{"time": "now", "message": "45%"}', '{"time": cut', "{}", ""])
def test_other_lines_tell_nothing(line: str) -> None:
    assert progress_of(line) is None


def test_a_share_of_an_unknown_total_is_not_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    with log.JsonBar("passes") as bar:
        bar.update(2)
    assert progress_of(capsys.readouterr().err.strip()) is None


def test_the_curves_that_the_report_stage_wrote_are_shown_as_they_are(tmp_path: Path) -> None:
    assert curves(tmp_path) == ""
    (tmp_path / "curves").mkdir()
    for name in ("loss", "accuracy"):
        (tmp_path / "curves" / f"{name}.svg").write_text(f"<svg><title>{name}</title></svg>")
    images = re.findall(r"!\[(\w+)\]\(data:image/svg\+xml;base64,([^)]+)\)", curves(tmp_path))
    assert [name for name, _ in images] == ["accuracy", "loss"]
    assert base64.b64decode(images[1][1]) == b"<svg><title>loss</title></svg>"
