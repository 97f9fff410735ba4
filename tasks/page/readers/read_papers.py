"""Reads the judge's papers, as `winrate` took them over from `qualify`."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from tasks.page.facts import AgreementFacts, PapersFacts
from tasks.page.measured import Rate
from tasks.page.readers.json_node import Node


def read_papers(papers: Node, choice: Any = None) -> PapersFacts:
    """Read the key `qualification` of `results/winrate/metrics.json`.

    Args:
        papers: The object under that key.
        choice: `winrate.judge` of the params, which names models and classes.

    Raises:
        ArtifactError: A key is missing or wrong.
    """
    canaries = papers.node("canaries")
    return papers.fill(
        PapersFacts,
        model=", ".join(_named(choice)),
        labels=_agreement(papers.node("agreement")),
        length_labels=_agreement(papers.node("length_agreement")),
        canaries={name: canaries.number(name) for name in canaries.values},
        faults=papers.items("faults", str),
    )


def _agreement(node: Node) -> AgreementFacts:
    measures = ("agreement", "kappa", "first_position_share")
    return node.fill(AgreementFacts, **{name: _measure(node, name) for name in measures})


def _measure(node: Node, key: str) -> Rate | None:
    return None if node.get(key) is None else node.node(key).fill(Rate)


def _named(choice: Any) -> list[str]:
    """Return the models and classes that a choice of a judge names, those of a panel's members included.

    Of a model in a folder only the folder's name is told, for its path exists on one machine only.
    """
    if not isinstance(choice, dict):
        return []
    members = [name for member in choice.get("members") or [] for name in _named(member)]
    source = str(choice.get("source") or "")
    models = [choice.get("model"), choice.get("name"), source if choice.get("revision") else PurePath(source).name]
    return [str(name) for name in models if name] + members
