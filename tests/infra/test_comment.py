"""The comment on a retraining's pull request."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.infra.files import INFRA

SUMMARY = {
    "status": "trained",
    "branch": "retrain/1f0c",
    "data_version": "1f0c9a2b",
    "win_rate": 0.8704,
    "promoted": False,
}
EVALS = "step,loss,accuracy,margin\n0,0.6931,0.5,0\n18,0.1424,0.9912,4.939\n37,0.0611,1,-8.597\n"


def comment(tmp_path: Path, summary: dict[str, object], *words: str) -> str:
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    command = [sys.executable, INFRA / "ci" / "comment.py", tmp_path / "summary.json", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_it_tells_the_result_the_report_and_the_curves(tmp_path: Path) -> None:
    (tmp_path / "evals.csv").write_text(EVALS)
    said = comment(tmp_path, SUMMARY, "--evals", str(tmp_path / "evals.csv"), "--report", "https://example.com/report")
    for line in (
        "### Retraining: trained",
        "| data | `1f0c9a2b` |",
        "| win rate | 0.870 |",
        "| promoted by the gate | no |",
        "| held-out loss | 0.693 → 0.061 |",
        "[The whole report](https://example.com/report), an artifact of the run: unpack it and open `report.html`.",
    ):
        assert line in said.splitlines()
    assert said.count("```mermaid\nxychart-beta\n") == 3
    assert '    title "Held-out reward margin"\n    x-axis "step" 0 --> 37\n    y-axis -8.597 --> 4.939' in said
    assert "    line [0.6931, 0.1424, 0.0611]\n```" in said


def test_a_win_rate_beside_a_failed_guard_is_not_to_be_believed(tmp_path: Path) -> None:
    said = comment(tmp_path, {**SUMMARY, "failed_guards": "judge_agreement, distinct_ratio"})
    assert "| win rate | 0.870, not to be believed: judge_agreement, distinct_ratio failed |" in said.splitlines()


def test_a_run_that_trained_nothing_has_no_charts_and_no_branch(tmp_path: Path) -> None:
    said = comment(tmp_path, {"status": "nothing new", "branch": None, "data_version": "1f0c9a2b"})
    assert said == "### Retraining: nothing new\n\n| | |\n|---|---|\n| data | `1f0c9a2b` |\n"


def test_a_flat_curve_has_an_axis_with_a_length(tmp_path: Path) -> None:
    (tmp_path / "evals.csv").write_text("step,loss,accuracy,margin\n0,0,0,0\n9,0,0,0\n")
    assert "    y-axis 0 --> 1\n" in comment(tmp_path, SUMMARY, "--evals", str(tmp_path / "evals.csv"))
