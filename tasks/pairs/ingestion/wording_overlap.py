"""How much of the held-out prompts' wording training has seen, though no prompt stands on both sides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tasks.pairs.ingestion.keep_out import word_runs
from tasks.pairs.ingestion.split import split_text
from tasks.pairs.record.parquet import stored_pairs


def leaking_prompt_share(folder: Path) -> float:
    """Return the share of the test pairs in ``folder`` whose prompt has a run of 13 words that a training prompt has.

    The runs of the test prompts are held in memory.
    """
    holders: dict[str, set[int]] = defaultdict(set)  # the test pairs that have a run
    count = 0
    for count, words in enumerate(_words(folder / "test.parquet"), start=1):
        for run in word_runs(words):
            holders[run].add(count)

    leaking: set[int] = set()
    for words in _words(folder / "train.parquet"):
        for run in word_runs(words):
            leaking |= holders.pop(run, set())
    return len(leaking) / max(count, 1)


def _words(path: Path) -> Iterator[str]:
    for pairs in stored_pairs(path):
        yield from map(split_text, pairs)
