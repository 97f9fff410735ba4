"""Score every completion token under the fixed reference: the base, or the adapter that training continues from.

reads:  data/tokens/, data/base/, data/adapters/init/
writes: data/reference/ — one float32 log-probability a completion token for each split
params: `reference` in params.yaml; `runtime` for speed
run as: python -m tasks.reference (one process a GPU where there are several; or under torchrun)

A pair that was scored before in the same way is taken from the row store (`runtime.row_store`): new data costs its new
rows only, and a run that was killed goes on where it was.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any, Literal

from tasks.core import paths
from tasks.core.base_model import BaseModel
from tasks.core.files import atomic_folder, pretty_json, write_text
from tasks.core.params import load_section
from tasks.core.pinned_adapter import PinnedAdapter
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.dataset.blocks import completion_tokens
from tasks.dpo.model.distributed import all_done, open_accelerator
from tasks.dpo.reference.reference_files import describe, write_logps
from tasks.dpo.reference.reference_pass import ReferencePass, load_reference
from tasks.dpo.reference.row_identity import ReferenceIdentity, compute_identity
from tasks.dpo.reference.row_recall import RowRecall
from tasks.launch.launcher import relaunch_on_all_gpus
from tasks.launch.stage import door
from tasks.pairs.tokens.token_cache import TokenPairs, open_tokens
from tasks.rowstore.row_store import RowStore
from tasks.telemetry import log
from tasks.telemetry.receipts import note

SPLITS = ("train", "test")
_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class ReferenceConfig:
    """What the reference is.

    Attributes:
        model: `base`, the pinned base with every adapter off but the one that training continues from.
    """

    model: Literal["base"] = "base"


@dataclasses.dataclass(frozen=True)
class Folders:
    """What the stage reads and writes."""

    tokens: Path = paths.TOKENS
    base: Path = paths.BASE
    adapter: Path = paths.INIT_ADAPTER
    reference: Path = paths.REFERENCE


def run(
    folders: Folders, config: ReferenceConfig, runtime: RuntimeConfig, rows: RowStore | None = None
) -> dict[str, Any]:
    """Score the tokens of both splits and write them under ``folders.reference``; return the metrics.

    Args:
        folders: What is read and written.
        config: What the reference is.
        runtime: How this machine does it.
        rows: Rows that were scored before; None scores all.

    Raises:
        ArtifactError: The tokens, the base or the adapter are missing or damaged, or a log-probability is NaN or inf.
        ConfigError: The adapter does not fit the base.
        Preempted: The process was asked to stop; what was scored is in the row store.
    """
    base = BaseModel.open(folders.base, check_files=False)  # the weights are checked when they are loaded
    adapter = PinnedAdapter.open(folders.adapter, base.digest)
    splits = {split: open_tokens(folders.tokens, split) for split in SPLITS}
    accelerator, began = open_accelerator(runtime), time.monotonic()

    kind = accelerator.device.type
    compute = compute_identity(kind, base.dtype_on(kind))
    identity = ReferenceIdentity(base.digest, adapter.digest if adapter else None, compute)
    load = functools.partial(load_reference, folders.base, adapter, accelerator, runtime)
    recall = RowRecall(rows, identity) if rows else None
    reference = ReferencePass(load, runtime, recall, with_adapter=adapter is not None)

    metrics: dict[str, Any] = {}
    if accelerator.is_main_process:
        about = {"stage": "reference", "model": config.model, "inputs": _inputs(base, adapter, splits)}
        with atomic_folder(folders.reference, about) as draft:
            for split, tokens in splits.items():
                write_logps(draft / f"{split}.logps.npy", tokens, reference.blocks(tokens))
            metrics = {split: describe(draft / f"{split}.logps.npy", tokens) for split, tokens in splits.items()}
            write_text(draft / "metrics.json", pretty_json(metrics))
        _report(reference, splits, time.monotonic() - began)
    else:
        for tokens in splits.values():
            for _ in reference.blocks(tokens):  # all ranks score, rank 0 writes
                pass
    all_done(accelerator)
    return metrics


def _inputs(base: BaseModel, adapter: PinnedAdapter | None, splits: dict[str, TokenPairs]) -> dict[str, str]:
    """Return the digests of all that the numbers are computed from, for the manifest."""
    inputs = {"base": base.digest, **{f"{split}_tokens": tokens.token_digest() for split, tokens in splits.items()}}
    if base.compute_dtype != "auto":
        inputs["compute_dtype"] = base.compute_dtype
    if adapter:
        inputs["adapter"] = adapter.digest
    return inputs


def _report(reference: ReferencePass, splits: dict[str, TokenPairs], seconds: float) -> None:
    """Log how many pairs were scored, and note the throughput in the receipt."""
    count = sum(int(completion_tokens(tokens).sum()) for tokens in splits.values())
    note(completion_tokens=count, completion_tokens_per_s=round(count / seconds, 1))
    note(pairs_scored=reference.scored, pairs_from_row_store=reference.recalled)
    _log.info("scored %d pairs; %d were scored before", reference.scored, reference.recalled)


def main() -> None:
    """Bind the standard paths and params.yaml, on every visible GPU."""
    relaunch_on_all_gpus("reference")
    with door("reference", ReferenceConfig) as config:
        runtime = load_section(paths.PARAMS, "runtime", RuntimeConfig)
        rows = RowStore.open(runtime.row_store, "reference") if runtime.row_store else None
        run(Folders(), config, runtime, rows)


if __name__ == "__main__":
    main()
