"""The judge of a version, as `show` tells it: whether its word counts, and its papers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def judge_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return lines on the judge and the guards that failed, from the metrics that a version carries as evidence."""
    failed = [name for name, guard in metrics.get("guards", {}).items() if not guard.get("passed")]
    lines = [f"believable   no: {', '.join(sorted(failed))} failed"] if failed else []
    papers = metrics.get("qualification")
    if not papers:
        return [*lines, f"judge        {metrics.get('judge_kind', 'unknown')}, without papers: nobody measured it"]

    labels = papers["agreement"]
    said = [
        f"agreement with labels {_measure(labels['agreement'])}, lower bound {labels['bound']:.4f}, must lie above "
        f"{papers['min_agreement']:g}",
        f"{labels['pairs']} labelled pairs: {labels['decided']} decided, {labels['ties']} ties, "
        f"{labels['invalid']} invalid",
        f"agreement of the longer answer {_measure(papers['length_agreement']['agreement'])}",
        f"Cohen's kappa {_measure(labels['kappa'])}",
        f"first-position share {_measure(labels['first_position_share'])}",
        "games lost by canaries: " + (", ".join(f"{k} {v:.0%}" for k, v in papers["canaries"].items()) or "none"),
        *papers["faults"],
    ]
    standing = "qualified" if papers["qualified"] else "not qualified"
    return [*lines, f"judge        {papers['kind']} {papers['judge'][:12]}, {standing}", *_indented(said)]


def _measure(measure: Mapping[str, float] | None) -> str:
    return "none" if measure is None else f"{measure['value']:.4f} ({measure['low']:.4f} to {measure['high']:.4f})"


def _indented(lines: list[str]) -> list[str]:
    return [f"             - {line}" for line in lines]
