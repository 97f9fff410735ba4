"""What is compared between a whole base in one process and a sharded one on two ranks.

python -m torch.distributed.run --standalone --nproc_per_node=2 tests/dpo/sharding_script.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from tasks.dpo.refcache import reference_logps
from tasks.dpo.settings import ReferenceUpdate
from tasks.dpo.sharding import is_sharded, shard_frozen
from tasks.dpo.trainer import train
from tests.dpo import tiny

PAIRS, HELD_OUT = tiny.pairs(17), tiny.pairs(7, 99)  # the last step is one pair: a rank passes over it for nothing
CONFIG = tiny.config(label_smoothing=0.1, nll_weight=0.5, learning_rate=5e-3, pairs_per_step=8, lora=tiny.LORA)
SCENES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("llama", {}, {}),
    "checkpointing": ("llama", {}, {"gradient_checkpointing": True}),
    "a loss over the whole step": ("qwen2", {"loss": "aot", "label_smoothing": 0.0}, {}),
    "a moving reference": ("gemma2", {"reference_update": ReferenceUpdate("moving", every_steps=1)}, {}),
}


def scene(name: str, folder: Path) -> dict[str, Any]:
    """Train one scene, sharded where there is more than one rank."""
    family, changes, options = SCENES[name]
    runtime, device = tiny.budget(96, **options), Accelerator(cpu=True)
    bare = tiny.policy(family, CONFIG.seed)
    with torch.no_grad():
        scored = [reference_logps(bare, part, runtime) for part in (PAIRS, HELD_OUT)]
    model = tiny.policy(family, CONFIG.seed)
    if device.num_processes > 1:
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


def main(folder: Path) -> None:
    """Run everything and write this rank's findings."""
    rank = int(os.environ.get("RANK", "0"))
    found: dict[str, Any] = {name: scene(name, folder) for name in SCENES}
    found["hashes"] = bytes_of_adapter(folder / f"adapter{rank}")
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
