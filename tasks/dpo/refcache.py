"""Log-probabilities of the fixed reference: computed once, checked for holes, read beside the tokens."""

from __future__ import annotations

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
from tasks.core.files import read_manifest
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.devices import accelerator, gather_on_main
from tasks.dpo.logps import Scorer, lay_out
from tasks.dpo.plan import micro_batches, share
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
        """Return Σ log π_ref of chosen and of rejected for ``rows``, each [len(rows)], float32."""
        sums = np.empty((2, len(rows)), np.float32)
        for i, row in enumerate(rows):
            _, n_chosen, n_rejected = (int(n) for n in self.tokens.lengths[row])
            values = self.logps[self._ends[row] - n_chosen - n_rejected : self._ends[row]]
            sums[:, i] = values[:n_chosen].sum(dtype=np.float32), values[n_chosen:].sum(dtype=np.float32)
        return torch.from_numpy(sums[0]), torch.from_numpy(sums[1])


def branch_widths(tokens: TokenPairs) -> npt.NDArray[np.int64]:
    """Return the tokens of each pair's longer branch, prompt included, shape [pairs]."""
    lengths = np.asarray(tokens.lengths, dtype=np.int64)
    return np.asarray(lengths[:, 0] + lengths[:, 1:].max(axis=1))


def open_scored(tokens: TokenPairs, folder: Path, split: str) -> ScoredPairs:
    """Open `data/reference/` beside ``tokens``, memory-mapped.

    Raises:
        ArtifactError: It is missing, was computed for other tokens, or has holes.
    """
    manifest = read_manifest(folder, "reference")
    if manifest.get("inputs", {}).get(f"{split}_tokens") != tokens.digest():
        raise ArtifactError(f"{folder} was computed for other {split} tokens than data/tokens holds", _AGAIN)
    try:
        logps = np.load(folder / f"{split}.logps.npy", mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{folder}/{split}.logps.npy cannot be read ({error})", _AGAIN) from None
    if np.isnan(logps).any():
        raise ArtifactError(f"{folder}/{split}.logps.npy has {int(np.isnan(logps).sum())} empty slots", _AGAIN)
    return ScoredPairs(tokens, logps)


@torch.inference_mode()
def reference_logps(model: Any, tokens: TokenPairs, runtime: RuntimeConfig | None = None) -> ScoredPairs:
    """Score every completion token under the base: adapters off, dropout off, float32.

    Args:
        model: The base model, or a policy whose adapters are switched off for the time.
        tokens: The pairs to score.
        runtime: How much fits at once; ranks share the work.

    Returns:
        The pairs with their log-probabilities; complete on rank 0, this rank's part elsewhere.

    Raises:
        ArtifactError: A slot stayed empty or is not a finite number.
    """
    runtime = runtime or RuntimeConfig()
    device = accelerator(runtime)
    flat = np.full(int(tokens.lengths[:, 1:].astype(np.int64).sum()), np.nan, dtype=np.float32)
    was_training = model.training
    model.to(device.device).eval()
    if hasattr(model, "disable_adapter"):
        with model.disable_adapter():
            parts = _score_share(model, tokens, runtime)
    else:
        parts = _score_share(model, tokens, runtime)
    model.train(was_training)
    for scored in gather_on_main(device, parts) or []:
        for first, values in scored:
            flat[first : first + len(values)] = values
    if device.is_main_process and not np.isfinite(flat).all():
        bad = int((~np.isfinite(flat)).sum())
        raise ArtifactError(f"{bad} of {len(flat)} reference log-probabilities are not numbers", "check the base model")
    return ScoredPairs(tokens, flat)


def _score_share(model: Any, tokens: TokenPairs, runtime: RuntimeConfig) -> list[tuple[int, npt.NDArray[np.float32]]]:
    """Score this rank's micro-batches: (first slot, values) for each pair."""
    device = accelerator(runtime)
    scorer, widths = Scorer(model), branch_widths(tokens)
    spans = tokens.lengths[:, 1:].astype(np.int64).sum(axis=1)
    firsts = np.cumsum(spans) - spans
    batches = micro_batches(np.arange(len(tokens)), widths, runtime.tokens_per_micro_batch, device.num_processes)
    mine = share(batches, widths, device.process_index, device.num_processes)
    found: list[tuple[int, npt.NDArray[np.float32]]] = []
    for rows in log.progress(mine, "reference", unit="batch"):
        batch = lay_out([tokens.row(int(row)) for row in rows]).to(device.device)
        with device.autocast():
            values = scorer.logps(batch).float().cpu().numpy()
        for row, part in zip(rows, np.split(values, np.cumsum(spans[rows])[:-1]), strict=True):
            found.append((int(firsts[row]), part))
    return found
