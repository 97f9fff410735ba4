"""What is compared between a whole base in one process and a sharded one on two ranks.

python -m torch.distributed.run --standalone --nproc_per_node=2 tests/dpo/sharding_script.py FOLDER fsdp|deepspeed
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
from torch.multiprocessing.reductions import StorageWeakRef

from tasks.core.errors import Preempted
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.capacity.memory import bytes_of
from tasks.dpo.dataset import blocks
from tasks.dpo.model.adapter import LoraSettings
from tasks.dpo.model.anatomy import decoder_layers
from tasks.dpo.model.cpu_bfloat16 import mix
from tasks.dpo.model.sharding import is_sharded, shard_frozen
from tasks.dpo.reference.reference_pass import ReferencePass, reference_logps
from tasks.dpo.reference.row_identity import ReferenceIdentity
from tasks.dpo.reference.row_recall import RowRecall
from tasks.dpo.training.train_config import ReferenceUpdate
from tasks.dpo.training.trainer import train
from tasks.pairs.tokens.token_cache import TokenPairs
from tasks.rowstore.row_store import RowStore
from tests.dpo import tiny

PAIRS, HELD_OUT = tiny.pairs(17), tiny.pairs(7, 99)  # the last step is one pair: a rank passes over it for nothing
CONFIG = tiny.config(label_smoothing=0.1, nll_weight=0.5, learning_rate=5e-3, pairs_per_step=8, lora=tiny.LORA)
FEW_LAYERS = LoraSettings(rank=4, alpha=8, target_modules=("q_proj", "v_proj"))
SCENES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("llama", {}, {}),
    "checkpointing": ("llama", {}, {"gradient_checkpointing": True}),
    "a loss over the whole step": ("qwen2", {"loss": "aot", "label_smoothing": 0.0, "lora": FEW_LAYERS}, {}),
    "a moving reference": ("gemma2", {"reference_update": ReferenceUpdate("moving", every_steps=1)}, {}),
    "scored by the sharded policy": ("llama", {}, {"sharding": "as asked"}),
}
# family, pairs, tokens at once, whether the reference is the base with its adapter on
REFERENCES = {
    "many passes": ("llama", 17, 96, False),
    "one pass a rank": ("qwen2", 17, 65536, False),
    "one pair": ("llama", 1, 96, False),
    "three pairs, one at a time": ("gpt_neox", 3, 1, False),
    "an adapter": ("gemma2", 17, 96, True),
}
IDENTITY = ReferenceIdentity("b" * 64, None, "float32")


def scene(name: str, by: Any) -> dict[str, Any]:
    """Train one scene, sharded where there is more than one rank."""
    family, changes, options = SCENES[name]
    if "sharding" in options:
        options = {**options, "sharding": by}
    runtime, device, config = tiny.budget(96, **options), Accelerator(cpu=True), tiny.changed(CONFIG, **changes)
    bare = tiny.policy(family, config.seed, config.lora)
    with torch.no_grad():
        scored = [reference_logps(bare, part, runtime) for part in (PAIRS, HELD_OUT)]
    model = tiny.policy(family, config.seed, config.lora) if runtime.sharding == "none" else bare
    if device.num_processes > 1 and not is_sharded(model):
        shard_frozen(model, device, by)
    refuse_leftovers(model)
    result = train(model, *scored, config, runtime)
    adapter = {key: value.tolist() for key, value in tiny.adapter_state(model).items()}
    return {"steps": result.steps, "evals": result.evals, "adapter": adapter, **held(model)}


def in_bfloat16(by: Any) -> list[dict[str, Any]]:
    """Train with products in bfloat16, sharded where there is more than one rank; return the steps."""
    runtime, device = tiny.budget(96), Accelerator(cpu=True)
    model = tiny.policy("qwen2", CONFIG.seed, CONFIG.lora)
    mix(model)
    scored = [reference_logps(model, part, runtime) for part in (PAIRS, HELD_OUT)]
    if device.num_processes > 1:
        shard_frozen(model, device, by)
    return train(model, *scored, CONFIG, runtime).steps


def held(model: Any) -> dict[str, Any]:
    """Return how many of the layers' weights this rank holds between passes, and what of the model is cut at all."""
    parts = {name: (p, own) for name, p in model.named_parameters() if (own := own_part(p)) is not None}
    whole = sum(parameter.numel() for parameter, _ in parts.values())
    own = sum(part.numel() for _, part in parts.values())
    return {"own": own, "whole": whole, "cut": sorted(parts), "bytes": bytes_of(model)}


def own_part(parameter: Any) -> torch.Tensor | None:
    """Return this rank's part of a weight; None where it has all of it."""
    if isinstance(parameter, DTensor):
        return parameter.to_local()
    if (part := getattr(parameter, "ds_tensor", None)) is not None:
        assert parameter.untyped_storage().nbytes() <= 8, "between passes nothing else is held"
        assert bool(parameter.isnan().all()), "and who reads it then is found out"
    return part


def refuse_leftovers(model: Any) -> None:
    """Assert whenever the second layer begins that what the first one gathered by DeepSpeed is gone, views and all."""
    first, second = decoder_layers(model)[:2]
    seen: list[StorageWeakRef] = []

    def look(layer: torch.nn.Module, _: Any) -> None:
        cut = [parameter for parameter in layer.parameters() if hasattr(parameter, "ds_tensor")]
        seen.extend(StorageWeakRef(parameter.untyped_storage()) for parameter in cut)

    def check(*_: Any) -> None:
        assert all(storage.expired() for storage in seen)
        seen.clear()

    first.register_forward_pre_hook(look)
    second.register_forward_pre_hook(check)


def bytes_of_adapter(folder: Path, by: Any) -> tuple[str, str]:
    """Return the hashes of a saved adapter whose numbers do not depend on ranks."""
    model, device = tiny.moved(tiny.policy()), Accelerator(cpu=True)
    if device.num_processes > 1:
        shard_frozen(model, device, by)
        assert is_sharded(model)
    return tiny.adapter_bytes(model, folder)


def reference(name: str, by: str) -> dict[str, Any]:
    """Score one reference with the sharding on; tell its values, this rank's passes and what it holds."""
    family, count, tokens, with_adapter = REFERENCES[name]
    model, passes = tiny.moved(tiny.policy(family)), []
    decoder_layers(model)[0].register_forward_hook(lambda *_: passes.append(1))
    pairs, runtime = blocks.part(PAIRS, 0, count), tiny.budget(tokens, sharding=by)
    scored = reference_logps(model, pairs, runtime, with_adapter=with_adapter)
    return {"logps": scored.logps.tolist(), "passes": len(passes), **held(model)}


def recalled(disk: Path, is_last: bool, runtime: RuntimeConfig) -> dict[str, Any]:
    """Score with a store of rows on this rank's disk, which knows none, eight, sixteen, then all of seventeen."""
    scattered = [PAIRS.row(row) for row in range(1, 17, 2)]
    names = [f"{row:016x}" for row in range(8)]
    told: dict[str, Any] = {"stopped": stopped(disk / "stopped", is_last, runtime)}
    with mock.patch.object(blocks, "BLOCK_TOKENS", 60):  # blocks with two rows to score, with one and with none
        told["eight"] = kept(disk, TokenPairs.of_rows(scattered, names, names), runtime)
        told["sixteen"] = kept(disk, blocks.part(PAIRS, 0, 16), runtime)
    told["seventeen"] = kept(disk, PAIRS, runtime)
    told["all"] = kept(disk, PAIRS, runtime)
    return told


def kept(disk: Path, pairs: TokenPairs, runtime: RuntimeConfig) -> dict[str, Any]:
    """Score ``pairs`` with the store in ``disk``; tell the values, and how many were scored, recalled and loaded."""
    loaded: list[Any] = []

    def load() -> Any:
        loaded.append(tiny.base())
        return loaded[-1]

    scoring = ReferencePass(load, runtime, RowRecall(RowStore.open(disk, "reference"), IDENTITY))
    values = np.concatenate(list(scoring.blocks(pairs))).tolist()
    return {"logps": values, "counts": [scoring.scored, scoring.recalled, len(loaded)]}


def stopped(disk: Path, is_last: bool, runtime: RuntimeConfig) -> dict[str, Any]:
    """Tell the last rank alone to stop in its first pass; tell what all say, and how all go on."""
    model = tiny.base()
    if is_last:
        decoder_layers(model)[0].register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    scoring, said = ReferencePass(lambda: model, runtime, RowRecall(RowStore.open(disk, "reference"), IDENTITY)), ""
    try:
        list(scoring.blocks(PAIRS))
    except Preempted as error:
        said = str(error)
    return {"said": said, **kept(disk, PAIRS, runtime)}


def main(folder: Path, by: str) -> None:
    """Run everything and write this rank's findings."""
    rank = int(os.environ.get("RANK", "0"))
    found: dict[str, Any] = {name: scene(name, by) for name in SCENES}
    found["references"] = {name: reference(name, by) for name in REFERENCES}
    found["in bfloat16"] = in_bfloat16(by)
    is_last = rank == int(os.environ.get("WORLD_SIZE", "1")) - 1
    found["store"] = recalled(folder / f"disk{rank}", is_last, tiny.budget(96, sharding=by))
    found["hashes"] = bytes_of_adapter(folder / f"adapter{rank}", by)
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
