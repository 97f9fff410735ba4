"""Reads the facts about the data: rows read and left out, with reasons, the split and the lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tasks.core.errors import ArtifactError
from tasks.core.files import read_manifest
from tasks.page.bins import histogram, spread
from tasks.page.facts import DataFacts, Reason, Split
from tasks.page.readers.json_node import Node, read_lines, read_node

SPLITS = ("train", "test")


def read_data(pairs: Path, tokens: Path) -> DataFacts:
    """Read the facts about the data from `data/pairs/` and `data/tokens/`.

    Raises:
        ArtifactError: A folder is unfinished or damaged, or a row lacks a key.
    """
    read_manifest(pairs, "ingest")
    read_manifest(tokens, "encode")
    lengths = dict(zip(("prompt", "chosen", "rejected"), _lengths(tokens).T, strict=True))
    metrics = read_node(pairs / "metrics.json", "ingest")
    kept, prompts = metrics.node("pairs"), metrics.node("prompts")

    facts = metrics.node("left_out").fill(
        DataFacts,
        read=metrics.count("rows_read"),
        outcomes=metrics.count("outcomes"),
        splits=tuple(Split(name, kept.count(name), prompts.count(name)) for name in SPLITS),
        rejected=_reasons(read_lines(pairs / "rejects.jsonl", "ingest"), "source"),
        dropped=_reasons(read_lines(tokens / "dropped.jsonl", "encode"), "pair_id"),
        unread=_unread(metrics.node("columns_not_read")),
        forms=_forms(metrics.node("forms")),
        spreads=tuple(spread(name, values) for name, values in lengths.items()),
        lengths=histogram(("chosen", lengths["chosen"]), ("rejected", lengths["rejected"])),
    )
    accounted = sum(split.pairs for split in facts.splits) + facts.refused + facts.filtered + facts.over_limit
    if facts.outcomes != accounted:
        raise ArtifactError(
            f"{pairs} does not account for each of the {facts.read} rows read", "run `dvc repro -f ingest`"
        )
    return facts


def _unread(metrics: Node) -> dict[str, tuple[str, ...]]:
    """Return the columns that nothing read, by source."""
    unread = {}
    for source, columns in metrics.values.items():
        if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
            raise metrics.wrong(source, "is no list of columns")
        unread[source] = tuple(columns)
    return unread


def _forms(metrics: Node) -> dict[str, str]:
    """Return how each source was read; the standard columns need no word."""
    forms = {source: metrics.text(source) for source in metrics.values}
    return {source: form for source, form in forms.items() if not form.startswith("standard:")}


def _lengths(tokens: Path) -> np.ndarray[Any, Any]:
    """Return int32 [pairs of both sides, 3]: tokens of prompt, chosen and rejected."""
    lengths = []
    for name in SPLITS:
        path = tokens / f"{name}.lengths.npy"
        try:
            lengths.append(np.load(path, allow_pickle=False).reshape(-1, 3))
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path} cannot be read ({error})", "run `dvc repro -f encode`") from None
    return np.concatenate(lengths)


def _reasons(rows: Iterable[Node], origin: str) -> tuple[Reason, ...]:
    """Count rows by reason, most frequent first; ``origin`` is the key of a row's source."""
    counts: Counter[str] = Counter()
    first: dict[str, tuple[str, str]] = {}
    for row in rows:
        name = row.text("reason")
        counts[name] += 1
        first.setdefault(name, (row.text(origin), str(row.values.get("detail") or "")))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Reason(name, rows, *first[name]) for name, rows in ranked)
