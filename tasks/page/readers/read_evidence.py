"""Reads the evidence: win rate and intervals, the control, guards and slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.core.files import read_manifest
from tasks.page.facts import EvidenceFacts, Guard, SliceRate
from tasks.page.measured import Rate
from tasks.page.readers.json_node import Node, read_node
from tasks.page.readers.read_papers import read_papers
from tasks.page.words import guard_name


def read_evidence(winrate: Path, choice: Any = None) -> EvidenceFacts:
    """Read `results/winrate/metrics.json`.

    Args:
        winrate: The folder.
        choice: `winrate.judge` of the params.

    Raises:
        ArtifactError: The folder is unfinished or damaged, or a key is missing or wrong.
    """
    read_manifest(winrate, "winrate")
    metrics = read_node(winrate / "metrics.json", "winrate")
    controlled = metrics.node("length_controlled")
    is_refused = "refused" in controlled.values
    champion = metrics.node("champion") if "champion" in metrics.values else None
    slices = [
        part.fill(SliceRate, name=name, rate=_rate(part)) for name, part in metrics.node("slices").nodes().items()
    ]

    return metrics.fill(
        EvidenceFacts,
        confidence=1 - metrics.number("alpha"),
        papers=read_papers(metrics.node("qualification"), choice),
        rate=_rate(metrics),
        length_controlled=None if is_refused else _rate(controlled),
        length_refusal=controlled.text("refused") if is_refused else "",
        control=_rate(metrics.node("control")),
        length_ratio=metrics.node("lengths").number("ratio"),
        guards=tuple(_guard(name, node) for name, node in sorted(metrics.node("guards").nodes().items())),
        slices=tuple(sorted(slices, key=lambda part: (-part.prompts, part.name))),  # largest first
        champion=None if champion is None else _rate(champion),
        champion_digest="" if champion is None else champion.text("digest"),
    )


def _rate(node: Node) -> Rate:
    return node.fill(Rate, value=node.number("win_rate"))


def _guard(name: str, node: Node) -> Guard:
    passed = node.get("passed")
    if not isinstance(passed, bool):
        raise node.wrong("passed", f"is {passed!r}, not true or false,")
    if isinstance(limits := node.get("limit"), list):
        limit = " to ".join(f"{bound:.4g}" for bound in limits)
    else:
        limit = f"{node.text('rule')} {node.number('limit'):.4g}"
    return Guard(name, guard_name(name), f"{node.number('value'):.4g}", limit, passed)
