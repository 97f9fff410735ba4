"""Score every completion token under the fixed reference: the base, or the adapter that training continues from.

reads:  data/tokens/, data/base/, and the adapter that `train.init_adapter` names, from a folder or the registry
writes: data/reference/ — one float32 log-probability a completion token for each split; that adapter's files
params: `reference` and `train.init_adapter` in params.yaml; `runtime` for speed
run as: python -m tasks.reference (one process a GPU where there are several; or under torchrun)

A pair that was ever scored in this way is taken from the row store (`runtime.row_store`), so new data costs its
new rows only, and a run that is killed goes on where it was.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import time
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from tasks.core import paths
from tasks.core.base_model import BaseModel
from tasks.core.errors import ConfigError
from tasks.core.files import atomic_folder, pretty_json, write_text
from tasks.core.params import load_params, load_section
from tasks.core.paths import ADAPTER as WRITTEN_BY_TRAIN  # refused as an input, so that it is no dep
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.dataset.blocks import completion_tokens
from tasks.dpo.dataset.scored_pairs import ScoredPairs
from tasks.dpo.model.adapter_files import FOLDER, KEY, AdapterFiles
from tasks.dpo.model.distributed import all_done, open_accelerator
from tasks.dpo.reference.reference_pass import ReferencePass
from tasks.dpo.reference.row_identity import ReferenceIdentity, compute_identity
from tasks.dpo.reference.row_recall import RowRecall
from tasks.launch.launcher import relaunch_on_all_gpus
from tasks.launch.stage import door
from tasks.pairs.tokens.token_cache import TokenPairs, open_tokens
from tasks.registry.stores.open_store import open_store
from tasks.registry.versions.pinned import PREFIX, read_pinned
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
    reference: Path = paths.REFERENCE


def run(
    folders: Folders,
    config: ReferenceConfig,
    runtime: RuntimeConfig,
    rows: RowStore | None = None,
    adapter: AdapterFiles | None = None,
) -> dict[str, Any]:
    """Score the tokens of both splits and write them under ``folders.reference``; return the metrics.

    Args:
        folders: What is read and written.
        config: What the reference is.
        runtime: How this machine does it.
        rows: Rows that were scored before; None scores all.
        adapter: What training continues from; None where it starts from the base.

    Raises:
        ArtifactError: The tokens or the base are missing or damaged, or a log-probability is no number.
        ConfigError: The adapter does not fit the base.
        Preempted: The process was told to stop; what was scored is in the row store.
    """
    pinned = BaseModel.open(folders.base, check_files=False)  # the weights are checked when they are loaded
    splits = {split: open_tokens(folders.tokens, split) for split in SPLITS}
    device, began = open_accelerator(runtime), time.monotonic()
    if adapter is not None:
        adapter.refuse_other_base(pinned.digest)
    kind = device.device.type
    compute = compute_identity(kind, pinned.dtype_on(kind))
    identity = ReferenceIdentity(pinned.digest, adapter.digest if adapter else None, compute)
    load = functools.partial(_load, folders.base, adapter, device, runtime)
    scoring = ReferencePass(
        load, runtime, RowRecall(rows, identity) if rows else None, with_adapter=adapter is not None
    )
    metrics: dict[str, Any] = {}
    if device.is_main_process:
        about = {"stage": "reference", "model": config.model, **_inputs(pinned, adapter, splits)}
        with atomic_folder(folders.reference, about) as draft:
            for split, tokens in splits.items():
                with (draft / f"{split}.logps.npy").open("wb") as stream:
                    _write(stream, tokens, scoring)
            if adapter is not None:
                adapter.write(draft / FOLDER)
            metrics = {split: _describe(tokens, draft / f"{split}.logps.npy") for split, tokens in splits.items()}
            write_text(draft / "metrics.json", pretty_json(metrics))
        _tell(scoring, splits, time.monotonic() - began)
    else:
        for tokens in splits.values():
            for _ in scoring.blocks(tokens):
                pass
    all_done(device)
    return metrics


def _inputs(pinned: BaseModel, adapter: AdapterFiles | None, splits: dict[str, TokenPairs]) -> dict[str, Any]:
    """Return what the manifest says of where the numbers come from."""
    inputs = {"base": pinned.digest, **{f"{split}_tokens": tokens.token_digest() for split, tokens in splits.items()}}
    if pinned.compute_dtype != "auto":
        inputs["compute_dtype"] = pinned.compute_dtype
    if adapter is None:
        return {"inputs": inputs}
    return {"inputs": {**inputs, "adapter": adapter.digest}, "init_adapter": adapter.source}


def _load(base: Path, adapter: AdapterFiles | None, device: Any, runtime: RuntimeConfig) -> Any:
    """Load the reference model, its files checked."""
    from tasks.dpo.model.adapter_loading import load_adapter  # with transformers and PEFT, which take seconds to import
    from tasks.dpo.model.base_loading import load_base
    from tasks.dpo.model.sharding import is_wanted

    model = load_base(BaseModel.open(base), device.device, is_sharded=is_wanted(runtime, device))
    if adapter is None:
        return model
    with tempfile.TemporaryDirectory() as folder:
        adapter.write(Path(folder))
        return load_adapter(model, Path(folder)).requires_grad_(False)


def _write(stream: IO[bytes], tokens: TokenPairs, scoring: ReferencePass) -> None:
    """Write a split's log-probabilities as a .npy file, block by block."""
    total = int(completion_tokens(tokens).sum())
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (total,)})
    for block in scoring.blocks(tokens):
        stream.write(np.ascontiguousarray(block, "<f4").data)


def _describe(tokens: TokenPairs, path: Path) -> dict[str, float]:
    """Return how likely the reference finds the answers, and how often it already prefers chosen."""
    scored = ScoredPairs(tokens, np.load(path, mmap_mode="r", allow_pickle=False))
    chosen, rejected = scored.sums(np.arange(len(scored)))
    counts = tokens.lengths[:, 1:].sum(axis=0, dtype=np.int64)
    return {
        "pairs": len(scored),
        "chosen_logp_per_token": round(float(chosen.sum()) / int(counts[0]), 6),
        "rejected_logp_per_token": round(float(rejected.sum()) / int(counts[1]), 6),
        "ranking_accuracy": round(float((chosen > rejected).double().mean()), 6),
    }


def _tell(scoring: ReferencePass, splits: dict[str, TokenPairs], seconds: float) -> None:
    count = sum(int(completion_tokens(tokens).sum()) for tokens in splits.values())
    note(completion_tokens=count, completion_tokens_per_s=round(count / seconds, 1))
    note(pairs_scored=scoring.scored, pairs_from_row_store=scoring.recalled)
    _log.info("scored %d pairs; %d were scored before", scoring.scored, scoring.recalled)


def find_adapter(params: Path) -> AdapterFiles | None:
    """Read the adapter that `train.init_adapter` of a params file names; None where it names none.

    Raises:
        ConfigError: It names nothing, or something that may be another adapter tomorrow, or one that has seen
            prompts which are held out now.
        RegistryError: The version is damaged.
    """
    document = load_params(params)
    word = (document.get("train") or {}).get("init_adapter")
    if word is None:
        return None
    if not isinstance(word, str) or not word:
        raise ConfigError(f"`{KEY}` is {word!r}", "give a folder, `name@digest` of the registry, or null")
    folder = Path(word)
    if folder.is_dir() and not word.startswith(PREFIX):
        if folder.resolve() == WRITTEN_BY_TRAIN.resolve():
            told = f"`{KEY}` is {word}, which the train stage itself writes"
            raise ConfigError(told, "name the registry's version of it, or copy it to another folder")
        return AdapterFiles.read(folder, word)
    if "/" in word and "@" not in word and not word.startswith(PREFIX):
        raise ConfigError(f"`{KEY}`: there is no folder {word}", "mend the path")
    section = document.get("register") or {}
    store = open_store(str(section.get("root", "models/registry")))
    found = read_pinned(word, store, KEY)
    found.refuse_other_split(document.get("ingest") or {}, KEY)
    return AdapterFiles(word, found.weights, found.config, found.base)


def main() -> None:
    """Bind the standard paths and params.yaml, on every visible GPU."""
    relaunch_on_all_gpus("reference")
    with door("reference", ReferenceConfig) as config:
        runtime = load_section(paths.PARAMS, "runtime", RuntimeConfig)
        rows = RowStore.open(runtime.row_store, "reference") if runtime.row_store else None
        run(Folders(), config, runtime, rows, find_adapter(paths.PARAMS))


if __name__ == "__main__":
    main()
