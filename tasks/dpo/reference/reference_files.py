"""What the reference stage writes: a split's log-probabilities as a .npy file, and how likely they find its answers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tasks.dpo.dataset.blocks import Logps, completion_tokens
from tasks.dpo.dataset.scored_pairs import ScoredPairs
from tasks.pairs.tokens.token_cache import TokenPairs


def write_logps(path: Path, tokens: TokenPairs, blocks: Iterable[Logps]) -> None:
    """Write the log-probabilities of ``tokens``, which come in ``blocks``, as float32 [completion tokens]."""
    total = int(completion_tokens(tokens).sum())
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (total,)})
        for block in blocks:
            stream.write(np.ascontiguousarray(block, "<f4").data)


def describe(path: Path, tokens: TokenPairs) -> dict[str, float]:
    """Return how likely the reference finds the answers, and how often it already prefers the chosen one."""
    scored = ScoredPairs(tokens, np.load(path, mmap_mode="r", allow_pickle=False))
    chosen, rejected = scored.sums(np.arange(len(scored)))
    counts = tokens.lengths[:, 1:].sum(axis=0, dtype=np.int64)
    return {
        "pairs": len(scored),
        "chosen_logp_per_token": round(float(chosen.sum()) / int(counts[0]), 6),
        "rejected_logp_per_token": round(float(rejected.sum()) / int(counts[1]), 6),
        "ranking_accuracy": round(float((chosen > rejected).double().mean()), 6),
    }
