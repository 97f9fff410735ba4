"""The judge in Prefect's pages: its papers, and what it took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.dvc_project.outcome import read_json
from tasks.core import paths
from tasks.telemetry.judge_usage import read_usage

_MEASURES = {
    "agreement": "agreement with labels",
    "kappa": "Cohen's kappa",
    "first_position_share": "first-position share",
}


def judge_rows(workspace: Path) -> list[dict[str, Any]]:
    """Return the rows of the table of the judge: measure, value, and the interval's ends; none without papers."""
    papers = read_json(workspace / paths.QUALIFICATION / "metrics.json")
    return [*_papers(papers), *_usage(workspace)] if papers else []


def _papers(papers: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    labels, by_length = papers["agreement"], papers["length_agreement"]["agreement"] or {}
    yield _row("judge", f"{papers['kind']} {papers['judge'][:12]}")
    yield _row("qualifies", "yes" if papers["qualified"] else f"no: {'; '.join(papers['faults'])}")
    for key, name in _MEASURES.items():
        yield _row(name, **(labels[key] or {"value": "none"}))
    yield _row("lower bound of agreement", f"{labels['bound']:.4f}, must lie above {papers['min_agreement']:g}")
    yield _row("agreement of the longer answer", **by_length)
    counts = {key: labels[key] for key in ("pairs", "decided", "ties", "invalid")}
    yield _row("labelled pairs", ", ".join(f"{count} {key}" for key, count in counts.items()))
    yield _row("games lost by canaries", ", ".join(f"{name} {lost:.0%}" for name, lost in papers["canaries"].items()))


def _usage(workspace: Path) -> Iterator[dict[str, Any]]:
    for stage, usage in read_usage(workspace / paths.RECEIPTS).items():
        yield _row(f"usage of `{stage}`", usage)


def _row(measure: str, value: Any = "none", low: Any = "", high: Any = "") -> dict[str, Any]:
    return {"measure": measure, "value": value, "low": low, "high": high}
