"""Reads the evidence: win rate and intervals, the control, guards and slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.core.files import read_manifest
from tasks.page.facts import EvidenceFacts, Guard, Rate, SliceRate
from tasks.page.readers.json_node import Node, read_node
from tasks.page.words import guard_name


def read_evidence(winrate: Path) -> EvidenceFacts:
    """Read `results/winrate/metrics.json`.

    Raises:
        ArtifactError: The folder is unfinished or damaged, or a key is missing or wrong.
    """
    read_manifest(winrate, "winrate")
    metrics = read_node(winrate / "metrics.json", "winrate")
    controlled, refusal = _length_controlled(metrics.node("length_controlled"))
    control = metrics.maybe("control")
    champion = metrics.node("champion") if "champion" in metrics.values else None

    return EvidenceFacts(
        prompts=metrics.count("prompts"),
        confidence=1 - (metrics.number("alpha") if "alpha" in metrics.values else 0.05),
        judge=metrics.text("judge_kind") if "judge_kind" in metrics.values else "",
        rate=_rate(metrics),
        lower_bound=metrics.number("lower_bound"),
        interval_method=metrics.text("interval_method"),
        wins=metrics.count("wins"),
        ties=metrics.count("ties"),
        losses=metrics.count("losses"),
        coverage=metrics.number("coverage"),
        p_value=metrics.optional("p_value"),
        consistency=metrics.optional("consistency"),
        first_position_share=metrics.optional("first_position_share"),
        smallest_detectable=metrics.optional("smallest_detectable_win_rate"),
        length_controlled=controlled,
        length_refusal=refusal,
        control=None if control is None else _rate(control),
        length_ratio=metrics.node("lengths").optional("ratio"),
        guards=tuple(_guard(name, node) for name, node in sorted(metrics.node("guards").nodes().items())),
        slices=_slices(metrics.node("slices")),
        champion=None if champion is None else _rate(champion),
        champion_digest="" if champion is None else champion.text("digest"),
    )


def _rate(node: Node) -> Rate:
    return Rate(node.number("win_rate"), node.optional("low"), node.optional("high"))


def _length_controlled(node: Node) -> tuple[Rate | None, str]:
    """Return the rate and an empty text, or None and the reason why there is no rate."""
    if "refused" in node.values:
        return None, node.text("refused")
    return _rate(node), ""


def _guard(name: str, node: Node) -> Guard:
    passed = node.get("passed")
    if not isinstance(passed, bool):
        raise node.wrong("passed", f"is {passed!r}, not true or false,")
    limit, rule = _plain(node.get("limit")), node.values.get("rule", "")
    limit = f"{rule} {limit}" if rule in ("above", "at most", "at least") else limit
    return Guard(guard_name(name), _plain(node.get("value")), limit, passed)


def _plain(value: Any) -> str:
    """Return a guard's value or limit as text: a number with four digits, a list as a range."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " to ".join(_plain(item) for item in value)
    return str(value)


def _slices(node: Node) -> tuple[SliceRate, ...]:
    """Return the slices, largest first."""
    slices = [SliceRate(name, part.count("prompts"), _rate(part)) for name, part in node.nodes().items()]
    return tuple(sorted(slices, key=lambda part: (-part.prompts, part.name)))
