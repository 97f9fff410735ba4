"""Score every completion token under the fixed reference, the base model with the adapter off.

reads:  data/tokens/, data/base/
writes: data/reference/ — one float32 log-probability a completion token, for each split
params: `reference` in params.yaml; `runtime` for speed
run as: python -m tasks.reference (one process a GPU where there are several; or under torchrun)
"""

from __future__ import annotations

import dataclasses
import io
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tasks.core import log, paths, ranks
from tasks.core.base_model import BaseModel
from tasks.core.files import atomic_folder, pretty_json, write_bytes, write_text
from tasks.core.params import load_section
from tasks.core.runtime import RuntimeConfig
from tasks.core.stage import door, note
from tasks.dpo.devices import accelerator, all_done
from tasks.dpo.policy import load_base
from tasks.dpo.refcache import ScoredPairs, reference_logps
from tasks.pairs.cache import open_tokens

SPLITS = ("train", "test")
_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class ReferenceConfig:
    """What the reference is.

    Attributes:
        model: `base`, the pinned base with every adapter off.
    """

    model: Literal["base"] = "base"


def run(tokens: Path, base: Path, out: Path, config: ReferenceConfig, runtime: RuntimeConfig) -> dict[str, Any]:
    """Score the tokens of both splits and write them under ``out``; return the metrics.

    Raises:
        ArtifactError: The tokens or the base are missing or damaged, or a log-probability is no number.
    """
    pinned = BaseModel.open(base)
    splits = {split: open_tokens(tokens, split) for split in SPLITS}
    device = accelerator(runtime)
    began = time.monotonic()
    model = load_base(pinned, device.device)
    scored = {split: reference_logps(model, pairs, runtime) for split, pairs in splits.items()}
    if device.is_main_process:
        count = sum(len(part.logps) for part in scored.values())
        note(completion_tokens=count, completion_tokens_per_s=round(count / (time.monotonic() - began), 1))
        inputs = {"base": pinned.digest, **{f"{split}_tokens": pairs.digest() for split, pairs in splits.items()}}
        metrics = {split: _describe(part) for split, part in scored.items()}
        with atomic_folder(out, {"stage": "reference", "model": config.model, "inputs": inputs}) as draft:
            for split, part in scored.items():
                write_bytes(draft / f"{split}.logps.npy", _npy_bytes(part.logps))
            write_text(draft / "metrics.json", pretty_json(metrics))
        _log.info("scored %d completion tokens of %d pairs", count, sum(map(len, splits.values())))
    all_done(device)
    return {split: _describe(part) for split, part in scored.items()} if device.is_main_process else {}


def _describe(scored: ScoredPairs) -> dict[str, float]:
    """Return how likely the reference finds the answers, and how often it already prefers chosen."""
    chosen, rejected = scored.sums(np.arange(len(scored)))
    tokens = scored.tokens.lengths[:, 1:].sum(axis=0, dtype=np.int64)
    return {
        "pairs": len(scored),
        "chosen_logp_per_token": round(float(chosen.double().sum()) / int(tokens[0]), 6),
        "rejected_logp_per_token": round(float(rejected.double().sum()) / int(tokens[1]), 6),
        "ranking_accuracy": round(float((chosen > rejected).double().mean()), 6),
    }


def _npy_bytes(array: npt.NDArray[np.float32]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def main() -> None:
    """Bind the standard paths and params.yaml, on every visible GPU."""
    ranks.relaunch_on_all_gpus("reference")
    with door("reference", ReferenceConfig) as config:
        run(paths.TOKENS, paths.BASE, paths.REFERENCE, config, load_section(paths.PARAMS, "runtime", RuntimeConfig))


if __name__ == "__main__":
    main()
