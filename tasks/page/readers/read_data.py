"""Reads the facts of the data card: sources, rows left out with reasons, the split, slices and lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tasks.core.errors import ArtifactError
from tasks.core.files import read_manifest
from tasks.page.bins import spread
from tasks.page.facts import DataFacts, NumberFacts, Reason, SourceFacts, Split
from tasks.page.measured import Histogram
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

    slices = metrics.node("slices").nodes()
    facts = DataFacts(
        read=metrics.count("rows_read"),
        outcomes=metrics.count("outcomes"),
        left_out=metrics.node("left_out").counts(),
        splits=tuple(Split(name, kept.count(name), prompts.count(name)) for name in SPLITS),
        reasons=_reasons(read_lines(pairs / "rejects.jsonl", "ingest"), "source"),
        dropped=_reasons(read_lines(tokens / "dropped.jsonl", "encode"), "pair_id"),
        sources=_sources(metrics),
        slices={name: (counts.count("train"), counts.count("test")) for name, counts in slices.items()},
        all_slices=metrics.count("slices_found"),
        chosen_longer_share=metrics.number("chosen_longer_share"),
        spreads=tuple(spread(name, values) for name, values in lengths.items()),
        personal_data=_counts(metrics, "personal_data"),
        languages=_counts(metrics, "languages"),
        **_histograms(metrics),
    )

    listed = sum(rows for kind, rows in facts.left_out.items() if kind not in ("filtered", "over_limit"))
    accounted = sum(split.pairs for split in facts.splits) + sum(facts.left_out.values())
    if facts.outcomes != accounted or listed != sum(reason.rows for reason in facts.reasons):
        raise ArtifactError(
            f"{pairs} does not account for each of the {facts.read} rows read", "run `dvc repro -f ingest`"
        )
    return facts


def _counts(metrics: Node, key: str) -> dict[str, int] | None:
    """Return counts by their names; None if nothing was counted."""
    return metrics.node(key).counts() if key in metrics.values else None


def _sources(metrics: Node) -> tuple[SourceFacts, ...]:
    rows, forms = metrics.node("rows_by_source"), metrics.node("forms")
    unread, ignored = metrics.node("columns_not_read"), metrics.node("columns_ignored")
    return tuple(
        SourceFacts(
            name,
            rows.count(name) if name in rows.values else 0,
            forms.text(name),
            *(columns.items(name, str) if name in columns.values else () for columns in (unread, ignored)),
        )
        for name in forms.values
    )


def _histograms(metrics: Node) -> dict[str, Any]:
    """Return the histograms of lengths in characters, and weight and margin where pairs have some."""
    histograms = metrics.node("histograms")
    characters = histograms.node("characters")
    edges = characters.items("edges", int)
    prompt, chosen, rejected = ((name, characters.items(name, int)) for name in ("prompt", "chosen", "rejected"))
    numbers = []
    for name in ("weight", "margin"):
        if name in histograms.values:
            bins = histograms.node(name)
            drawn = Histogram(bins.items("edges", float, int), ("pairs", bins.items("pairs", int)), unit=name)
            numbers.append(metrics.node(name).fill(NumberFacts, name=name, bins=drawn))
    return {
        "prompts": Histogram(edges, prompt, unit="characters"),
        "answers": Histogram(edges, chosen, rejected, unit="characters"),
        "numbers": tuple(numbers),
    }


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
