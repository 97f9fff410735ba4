"""Artifacts: how far a stage is, read from what it prints, and the curves of the report."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest

from flows.prefect_ui.artifacts import curves, progress_of, win_rates
from flows.prefect_ui.judge_table import judge_rows
from tasks.core import paths
from tasks.core.files import pretty_json, write_text
from tasks.telemetry import log
from tests.page.samples import papers


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


def _usage(**changes: Any) -> str:
    usage = {"tokens_in": 1200, "tokens_out": 80, "cost": 0.0123, "seconds": 4.1, "attempts": 12, "cached": 3}
    return pretty_json({"ended": "2026-11-30T12:00:00+00:00", "notes": {"judge_usage": usage | changes}})


def test_the_table_of_the_judge_holds_its_papers_and_what_it_took(tmp_path: Path) -> None:
    assert judge_rows(tmp_path) == []
    write_text(tmp_path / paths.QUALIFICATION / "metrics.json", pretty_json(papers(0.8)))
    write_text(tmp_path / paths.RECEIPTS / "qualify.json", _usage(model="small-judge"))
    write_text(tmp_path / paths.RECEIPTS / "winrate.json", _usage(attempts=0, cached=0))

    rows = {row["measure"]: row for row in judge_rows(tmp_path)}
    assert rows["judge"]["value"] == "openai 5a5a5a5a5a5a"
    assert rows["qualifies"]["value"] == "yes"
    assert [rows["agreement with labels"][key] for key in ("value", "low", "high")] == pytest.approx([0.8, 0.75, 0.85])
    assert rows["Cohen's kappa"]["value"] == pytest.approx(0.6)
    assert rows["labelled pairs"]["value"] == "200 pairs, 180 decided, 17 ties, 3 invalid"
    assert rows["usage of `qualify`"]["value"] == (
        "12 calls, 3 judgements recalled, 1,200 tokens in, 80 out, 4.1 s of answering, cost 0.0123, answered by "
        "small-judge (run of 2026-11-30T12:00:00+00:00)"
    )
    assert rows["usage of `winrate`"]["value"].startswith("no call to a model")


def test_a_judge_that_does_not_qualify_is_said_with_its_faults(tmp_path: Path) -> None:
    spoiled = papers(0.44, ("it is blind",))
    spoiled["agreement"] |= {"agreement": None, "first_position_share": None}
    write_text(tmp_path / paths.QUALIFICATION / "metrics.json", pretty_json(spoiled))
    rows = {row["measure"]: row["value"] for row in judge_rows(tmp_path)}
    assert rows["qualifies"] == "no: it is blind"
    assert (rows["agreement with labels"], rows["first-position share"]) == ("none", "none")


def test_each_win_rate_beside_a_failed_guard_is_marked() -> None:
    metrics = {"win_rate": 0.75, "low": 0.7, "high": 0.8, "champion": {"win_rate": 0.6, "low": 0.5, "high": 0.7}}
    assert {row["to be believed"] for row in win_rates(metrics)} == {"yes"}
    metrics["guards"] = {"control_judge": {"passed": False}, "empty_share": {"passed": True}}
    assert {row["to be believed"] for row in win_rates(metrics)} == {"no: control_judge"}
