"""Log-probabilities of the fixed reference: computed once, checked for holes, read beside the tokens."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tasks.core import log
from tasks.core.errors import ArtifactError
from tasks.core.files import verify_manifest
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.devices import accelerator, sum_over_ranks
from tasks.dpo.logps import Scorer, lay_out
from tasks.dpo.modes import evaluation_mode
from tasks.dpo.plan import micro_batches, share
from tasks.dpo.threads import suited_threads
from tasks.pairs.cache import TokenPairs

_AGAIN = "delete data/reference and run `dvc repro reference`"


@dataclasses.dataclass(frozen=True)
class ScoredPairs:
    """Token pairs with the reference's log-probability of every completion token.

    Attributes:
        tokens: The pairs.
        logps: float32, flat: for each row its chosen tokens, then its rejected ones.
    """

    tokens: TokenPairs
    logps: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        expected = int(self.tokens.lengths[:, 1:].astype(np.int64).sum())
        if self.logps.shape != (expected,) or self.logps.dtype != np.float32:
            raise ArtifactError(
                f"reference log-probabilities are {self.logps.dtype}{list(self.logps.shape)}, the tokens need "
                f"float32[{expected}]",
                _AGAIN,
            )

    def __len__(self) -> int:
        return len(self.tokens)

    @functools.cached_property
    def widths(self) -> npt.NDArray[np.int64]:
        """Tokens of each pair's longer branch, shape [pairs]."""
        return branch_widths(self.tokens)

    @functools.cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        return np.cumsum(self.tokens.lengths[:, 1:].astype(np.int64).sum(axis=1))

    def sums(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return Σ log π_ref of chosen and of rejected for ``rows``, each [len(rows)], float64."""
        sums = np.empty((2, len(rows)), np.float64)
        for i, row in enumerate(rows):
            _, n_chosen, n_rejected = (int(n) for n in self.tokens.lengths[row])
            values = self.logps[self._ends[row] - n_chosen - n_rejected : self._ends[row]]
            sums[:, i] = values[:n_chosen].sum(dtype=np.float64), values[n_chosen:].sum(dtype=np.float64)
        return torch.from_numpy(sums[0]), torch.from_numpy(sums[1])


def branch_widths(tokens: TokenPairs) -> npt.NDArray[np.int64]:
    """Return the tokens of each pair's longer branch, prompt included, shape [pairs]."""
    lengths = np.asarray(tokens.lengths, dtype=np.int64)
    return np.asarray(lengths[:, 0] + lengths[:, 1:].max(axis=1))


def open_scored(tokens: TokenPairs, folder: Path, split: str, base_digest: str) -> ScoredPairs:
    """Open `data/reference/` beside ``tokens``, memory-mapped.

    Args:
        tokens: The pairs of this split.
        folder: What the reference stage wrote.
        split: `train` or `test`.
        base_digest: Identity of the pinned base, which the reference must have been computed with.

    Raises:
        ArtifactError: It is missing or damaged, was computed for other tokens or another base, or has holes.
    """
    inputs = verify_manifest(folder, "reference").get("inputs", {})
    if inputs.get("base") != base_digest:
        raise ArtifactError(f"{folder} was computed with another base than data/base pins", _AGAIN)
    if inputs.get(f"{split}_tokens") != tokens.digest():
        raise ArtifactError(f"{folder} was computed for other {split} tokens than data/tokens holds", _AGAIN)
    try:
        logps = np.load(folder / f"{split}.logps.npy", mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ArtifactError(f"{folder}/{split}.logps.npy cannot be read ({error})", _AGAIN) from None
    scored = ScoredPairs(tokens, logps)
    if holes := int((~np.isfinite(logps)).sum()):
        raise ArtifactError(f"{folder}/{split}.logps.npy has {holes} empty slots", _AGAIN)
    return scored


@torch.inference_mode()
def reference_logps(model: Any, tokens: TokenPairs, runtime: RuntimeConfig | None = None) -> ScoredPairs:
    """Score every completion token under the base: adapters off, dropout off, float32.

    Args:
        model: The base model, or a policy whose adapters are switched off for the time.
        tokens: The pairs to score.
        runtime: How much fits at once; ranks share the work.

    Returns:
        The pairs with their log-probabilities, complete on every rank.

    Raises:
        ArtifactError: A slot stayed empty or is not a finite number, or a token is none of the base's.
    """
    runtime = runtime or RuntimeConfig()
    _check_vocabulary(model, tokens)
    device = accelerator(runtime)
    model.to(device.device)
    adapter_off = model.disable_adapter() if hasattr(model, "disable_adapter") else contextlib.nullcontext()
    with adapter_off, evaluation_mode(model), suited_threads(model):
        parts = _score_share(model, tokens, runtime)
    values_and_marks = torch.zeros(2, int(tokens.lengths[:, 1:].astype(np.int64).sum()))
    for first, values in parts:
        values_and_marks[:, first : first + len(values)] = torch.stack([values, torch.ones_like(values)])
    # each slot is one rank's and zero elsewhere, so the sum is exact
    flat, marks = sum_over_ranks(device, values_and_marks.to(device.device)).cpu().numpy()
    if bad := int((~np.isfinite(flat) | (marks != 1)).sum()):
        raise ArtifactError(f"{bad} of {len(flat)} reference log-probabilities are not numbers", "check the base model")
    return ScoredPairs(tokens, flat)


def _check_vocabulary(model: Any, tokens: TokenPairs) -> None:
    known = model.get_input_embeddings().weight.shape[0]
    if (largest := int(tokens.ids.max(initial=0))) >= known:
        raise ArtifactError(
            f"the tokens hold token id {largest}, the base has embeddings for {known}",
            "its tokenizer does not fit its weights: choose another `base.source`",
        )


def _score_share(model: Any, tokens: TokenPairs, runtime: RuntimeConfig) -> list[tuple[int, Tensor]]:
    """Score this rank's micro-batches: (first slot, values) for each pair."""
    device = accelerator(runtime)
    scorer, widths = Scorer(model), branch_widths(tokens)
    spans = tokens.lengths[:, 1:].astype(np.int64).sum(axis=1)
    firsts = np.cumsum(spans) - spans
    batches = micro_batches(np.arange(len(tokens)), widths, runtime.tokens_per_micro_batch, device.num_processes)
    mine = share(batches, widths, device.process_index, device.num_processes)
    found: list[tuple[int, Tensor]] = []
    for rows in log.progress(mine, "reference", unit="batch"):
        batch = lay_out([tokens.row(int(row)) for row in rows]).to(device.device)
        with device.autocast():
            values = scorer.logps(batch).float().cpu()
        for row, part in zip(rows, torch.split(values, spans[rows].tolist()), strict=True):
            found.append((int(firsts[row]), part))
    return found
