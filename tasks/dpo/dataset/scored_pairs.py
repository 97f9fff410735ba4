"""Token pairs with the reference's log-probabilities, in memory or memory-mapped."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tasks.core import ragged
from tasks.core.errors import ArtifactError
from tasks.core.files import verify_manifest
from tasks.dpo.dataset.blocks import Logps, Rows, completion_tokens, cuts
from tasks.pairs.tokens.token_cache import TokenPairs

_BLOCK = 1 << 24  # log-probabilities that are checked at once
_AGAIN = "delete data/reference and run `dvc repro reference`"


@dataclasses.dataclass(frozen=True)
class ScoredPairs:
    """Token pairs with the reference's log-probability of every completion token.

    Attributes:
        tokens: The pairs.
        logps: log π_ref, float32 [completion tokens]: of each row the chosen tokens, then the rejected ones.
    """

    tokens: TokenPairs
    logps: Logps

    def __post_init__(self) -> None:
        expected = int(completion_tokens(self.tokens).sum())
        if self.logps.shape != (expected,) or self.logps.dtype != np.float32:
            raise ArtifactError(
                f"reference log-probabilities are {self.logps.dtype}{list(self.logps.shape)}, the tokens need "
                f"float32[{expected}]",
                _AGAIN,
            )

    def __len__(self) -> int:
        return len(self.tokens)

    def token_logps(self, rows: Rows) -> Logps:
        """Return log π_ref of the completion tokens of ``rows``, float32 [their number]: of each row chosen first."""
        lengths = completion_tokens(self.tokens)[rows]
        return np.asarray(self.logps[ragged.spans(self._begins[rows], lengths)])

    def sums(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return Σ log π_ref of chosen and of rejected for ``rows``, each [len(rows)], float64."""
        sums = np.empty((len(rows), 2), np.float64)
        lengths = self.tokens.lengths[rows, 1:].astype(np.int64)
        for first, last in cuts(lengths.sum(axis=1)):
            values = self.token_logps(rows[first:last])
            sums[first:last] = ragged.sums(values, lengths[first:last].reshape(-1)).reshape(-1, 2)
        chosen, rejected = torch.from_numpy(sums.T.copy())
        return chosen, rejected

    @functools.cached_property
    def _begins(self) -> Rows:
        lengths = completion_tokens(self.tokens)
        begins: Rows = np.cumsum(lengths) - lengths
        return begins


def open_scored(
    tokens: TokenPairs,
    folder: Path,
    split: str,
    base_digest: str,
    adapter_digest: str | None = None,
    compute_dtype: str = "auto",
) -> ScoredPairs:
    """Open a split of `data/reference/` together with its tokens, memory-mapped.

    Args:
        tokens: The pairs of this split.
        folder: What the reference stage wrote.
        split: `train` or `test`.
        base_digest: Identity of the pinned base, which the reference must have been computed with.
        adapter_digest: Identity of the adapter in data/adapters/init, likewise; None where there is none.
        compute_dtype: The base's compute type, likewise.

    Raises:
        ArtifactError: It is missing or damaged, was computed for other tokens, another base or another adapter,
            or in another type, or has NaN or infinite values.
    """
    inputs = verify_manifest(folder, "reference").get("inputs", {})
    if inputs.get("base") != base_digest:
        raise ArtifactError(f"{folder} was computed with another base than data/base pins", _AGAIN)
    if (adapter := inputs.get("adapter")) != adapter_digest:
        what = f"{folder} was computed with {_shown(adapter)}, data/adapters/init holds {_shown(adapter_digest)}"
        raise ArtifactError(what, "run `dvc repro reference`")
    if (kind := inputs.get("compute_dtype", "auto")) != compute_dtype:
        what = f"{folder} was computed with `base.compute_dtype` {kind}, which is {compute_dtype} now"
        raise ArtifactError(what, "run `dvc repro reference`")
    if inputs.get(f"{split}_tokens") != tokens.token_digest():
        raise ArtifactError(f"{folder} was computed for other {split} tokens than data/tokens holds", _AGAIN)
    try:
        logps = np.load(folder / f"{split}.logps.npy", mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ArtifactError(f"{folder}/{split}.logps.npy cannot be read ({error})", _AGAIN) from None
    scored = ScoredPairs(tokens, logps)
    if holes := sum(int((~np.isfinite(logps[i : i + _BLOCK])).sum()) for i in range(0, len(logps), _BLOCK)):
        raise ArtifactError(f"{folder}/{split}.logps.npy has {holes} values that are NaN or infinite", _AGAIN)
    return scored


def _shown(adapter_digest: str | None) -> str:
    return f"the adapter {adapter_digest[:12]}" if adapter_digest else "no adapter"
