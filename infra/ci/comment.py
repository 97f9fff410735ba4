"""The result of a retraining as a comment on its pull request: a table, and charts that GitHub draws.

A comment cannot show images of an artifact, and signed addresses of images in a bucket expire. So the charts are
Mermaid: their numbers are in the comment, so they work in a private repository, too, and never expire. The whole report
is the artifact of the run.

run as: python infra/ci/comment.py SUMMARY.json [--evals EVALS.csv] [--report ADDRESS]
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

CHARTS = {"loss": "Held-out loss", "accuracy": "Held-out preference accuracy", "margin": "Held-out reward margin"}


def comment(summary: Mapping[str, Any], evals: Sequence[Mapping[str, str]], report: str | None) -> str:
    """Return the comment.

    Args:
        summary: What `python -m flows.retrain --summary` wrote: status, branch, data_version, win_rate, promoted.
        evals: Rows of results/train/evals.csv, by column; none if nothing was trained.
        report: Address of the whole report.
    """
    lines = [f"### Retraining: {summary['status']}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _facts(summary, evals)]
    if report:
        lines += ["", f"[The whole report]({report}), an artifact of the run: unpack it and open `report.html`."]
    if len(evals) > 1:
        for column, title in CHARTS.items():
            lines += ["", *chart(title, [int(row["step"]) for row in evals], [float(row[column]) for row in evals])]
    return "\n".join(lines) + "\n"


def _facts(summary: Mapping[str, Any], evals: Sequence[Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the names and values of the known facts."""
    for key, name in (("data_version", "data"), ("branch", "branch")):
        if summary.get(key):
            yield name, f"`{summary[key]}`"
    if summary.get("win_rate") is not None:
        doubt = f", not to be believed: {summary['failed_guards']} failed" if summary.get("failed_guards") else ""
        yield "win rate", f"{float(summary['win_rate']):.3f}{doubt}"
    if summary.get("promoted") is not None:
        yield "promoted by the gate", "yes" if summary["promoted"] else "no"
    if evals:
        for column in CHARTS:
            yield f"held-out {column}", f"{float(evals[0][column]):.3f} → {float(evals[-1][column]):.3f}"


def chart(title: str, xs: Sequence[int], ys: Sequence[float]) -> list[str]:
    """Return the lines of a Mermaid chart of one curve; its points are drawn at even distances from first to last x."""
    low, high = min(0.0, *ys), max(ys)
    return [
        "```mermaid",
        "xychart-beta",
        f'    title "{title}"',
        f'    x-axis "step" {xs[0]} --> {xs[-1]}',
        f"    y-axis {low:.4g} --> {high if high > low else low + 1:.4g}",
        f"    line [{', '.join(f'{y:.4g}' for y in ys)}]",
        "```",
    ]


def main() -> int:
    """Print the comment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("summary", type=Path, metavar="SUMMARY.json")
    parser.add_argument("--evals", type=Path, metavar="EVALS.csv", help="results/train/evals.csv of the new adapter")
    parser.add_argument("--report", metavar="ADDRESS", help="where the whole report is")
    arguments = parser.parse_args()
    evals: list[dict[str, str]] = []
    if arguments.evals:
        with arguments.evals.open(encoding="utf-8", newline="") as file:
            evals = list(csv.DictReader(file))
    summary = json.loads(arguments.summary.read_text(encoding="utf-8"))
    sys.stdout.write(comment(summary, evals, arguments.report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
