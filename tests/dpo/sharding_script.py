"""What is compared between a whole base in one process and a sharded one on two ranks.

python -m torch.distributed.run --standalone --nproc_per_node=2 tests/dpo/sharding_script.py FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from tasks.core.errors import Preempted
from tasks.core.rowstore import RowStore
from tasks.dpo import blocks
from tasks.dpo.layers import decoder_layers
from tasks.dpo.refcache import Known, Scoring, reference_logps
from tasks.dpo.rowkeys import ReferenceIdentity
from tasks.dpo.settings import ReferenceUpdate
from tasks.dpo.sharding import is_sharded, shard_frozen
from tasks.dpo.trainer import train
from tasks.pairs.cache import TokenPairs
from tests.dpo import tiny

PAIRS, HELD_OUT = tiny.pairs(17), tiny.pairs(7, 99)  # the last step is one pair: a rank passes over it for nothing
CONFIG = tiny.config(label_smoothing=0.1, nll_weight=0.5, learning_rate=5e-3, pairs_per_step=8, lora=tiny.LORA)
SCENES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("llama", {}, {}),
    "checkpointing": ("llama", {}, {"gradient_checkpointing": True}),
    "a loss over the whole step": ("qwen2", {"loss": "aot", "label_smoothing": 0.0}, {}),
    "a moving reference": ("gemma2", {"reference_update": ReferenceUpdate("moving", every_steps=1)}, {}),
    "scored by the sharded policy": ("llama", {}, {"sharding": "fsdp"}),
}
SHARDED = tiny.budget(96, sharding="fsdp")
# family, pairs, tokens at once, whether the reference is the base with its adapter on
REFERENCES = {
    "many passes": ("llama", 17, 96, False),
    "one pass a rank": ("qwen2", 17, 65536, False),
    "one pair": ("llama", 1, 96, False),
    "three pairs, one at a time": ("gpt_neox", 3, 1, False),
    "an adapter": ("gemma2", 17, 96, True),
}
IDENTITY = ReferenceIdentity("b" * 64, None, "float32")


def scene(name: str, folder: Path) -> dict[str, Any]:
    """Train one scene, sharded where there is more than one rank."""
    family, changes, options = SCENES[name]
    runtime, device = tiny.budget(96, **options), Accelerator(cpu=True)
    bare = tiny.policy(family, CONFIG.seed)
    with torch.no_grad():
        scored = [reference_logps(bare, part, runtime) for part in (PAIRS, HELD_OUT)]
    model = bare if runtime.sharding == "fsdp" else tiny.policy(family, CONFIG.seed)
    if device.num_processes > 1 and not is_sharded(model):
        shard_frozen(model, device)
    result = train(model, *scored, tiny.changed(CONFIG, **changes), runtime)
    adapter = {key: value.tolist() for key, value in tiny.adapter_state(model).items()}
    return {"steps": result.steps, "evals": result.evals, "adapter": adapter, **held(model)}


def held(model: Any) -> dict[str, Any]:
    """Return how many of the layers' weights this rank holds between passes, and what of the model is cut at all."""
    parts = {name: parameter for name, parameter in model.named_parameters() if isinstance(parameter, DTensor)}
    whole = sum(part.numel() for part in parts.values())
    return {"own": sum(part.to_local().numel() for part in parts.values()), "whole": whole, "cut": sorted(parts)}


def bytes_of_adapter(folder: Path) -> tuple[str, str]:
    """Return the hashes of a saved adapter whose numbers do not depend on ranks."""
    model, device = tiny.moved(tiny.policy()), Accelerator(cpu=True)
    if device.num_processes > 1:
        shard_frozen(model, device)
        assert is_sharded(model)
    return tiny.adapter_bytes(model, folder)


def reference(name: str) -> dict[str, Any]:
    """Score one reference with the sharding on; tell its values, this rank's passes and what it holds."""
    family, count, tokens, with_adapter = REFERENCES[name]
    model, passes = tiny.moved(tiny.policy(family)), []
    decoder_layers(model)[0].register_forward_hook(lambda *_: passes.append(1))
    pairs, runtime = blocks.part(PAIRS, 0, count), tiny.budget(tokens, sharding="fsdp")
    scored = reference_logps(model, pairs, runtime, with_adapter=with_adapter)
    return {"logps": scored.logps.tolist(), "passes": len(passes), **held(model)}


def recalled(disk: Path, is_last: bool) -> dict[str, Any]:
    """Score with a store of rows on this rank's disk, which knows none, eight, sixteen, then all of seventeen."""
    scattered = [PAIRS.row(row) for row in range(1, 17, 2)]
    names = [f"{row:016x}" for row in range(8)]
    told: dict[str, Any] = {"stopped": stopped(disk / "stopped", is_last)}
    with mock.patch.object(blocks, "BLOCK_TOKENS", 60):  # blocks with two rows to score, with one and with none
        told["eight"] = kept(disk, TokenPairs.of_rows(scattered, names, names))
        told["sixteen"] = kept(disk, blocks.part(PAIRS, 0, 16))
    told["seventeen"] = kept(disk, PAIRS)
    told["all"] = kept(disk, PAIRS)
    return told


def kept(disk: Path, pairs: TokenPairs) -> dict[str, Any]:
    """Score ``pairs`` with the store in ``disk``; tell the values, and how many were scored, recalled and loaded."""
    loaded: list[Any] = []

    def load() -> Any:
        loaded.append(tiny.base())
        return loaded[-1]

    scoring = Scoring(load, SHARDED, Known(RowStore.open(disk, "reference"), IDENTITY))
    values = np.concatenate(list(scoring.blocks(pairs))).tolist()
    return {"logps": values, "counts": [scoring.scored, scoring.recalled, len(loaded)]}


def stopped(disk: Path, is_last: bool) -> dict[str, Any]:
    """Tell the last rank alone to stop in its first pass; tell what all say, and how all go on."""
    model = tiny.base()
    if is_last:
        decoder_layers(model)[0].register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    scoring, said = Scoring(lambda: model, SHARDED, Known(RowStore.open(disk, "reference"), IDENTITY)), ""
    with mock.patch.object(blocks, "BLOCK_TOKENS", 60):
        try:
            list(scoring.blocks(PAIRS))
        except Preempted as error:
            said = str(error)
    return {"said": said, **kept(disk, PAIRS)}


def main(folder: Path) -> None:
    """Run everything and write this rank's findings."""
    rank = int(os.environ.get("RANK", "0"))
    found: dict[str, Any] = {name: scene(name, folder) for name in SCENES}
    found["references"] = {name: reference(name) for name in REFERENCES}
    is_last = rank == int(os.environ.get("WORLD_SIZE", "1")) - 1
    found["store"] = recalled(folder / f"disk{rank}", is_last)
    found["hashes"] = bytes_of_adapter(folder / f"adapter{rank}")
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
