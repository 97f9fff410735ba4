"""What is compared between one process and several: run by hand, or under torchrun, with a folder to write to.

python -m torch.distributed.run --standalone --nproc_per_node=2 tests/dpo/ranks_script.py FOLDER
python tests/dpo/ranks_script.py FOLDER 4    # forks as many ranks, which share one start
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

from tasks.core.errors import ConfigError, Preempted
from tasks.dpo.model.adapter import LoraSettings
from tasks.dpo.reference.reference_pass import reference_logps
from tasks.dpo.scoring import attention
from tasks.dpo.training.checkpoint import newest_checkpoint
from tasks.dpo.training.training_curves import TrainResult
from tests.dpo import tiny

PAIRS = tiny.pairs(17)  # steps of 8, 8 and 1: in the last one a second rank has nothing to do
HELD_OUT = tiny.pairs(7, 99)
CONFIG = tiny.config(
    label_smoothing=0.1, nll_weight=0.5, learning_rate=5e-3, pairs_per_step=8, epochs=2, lora=tiny.LORA
)
SMALL = tiny.budget(96)


def trained(name: str, folder: Path, **options: Any) -> dict[str, Any]:
    """Train with ``options`` and return the curves and the adapter's numbers."""
    config = tiny.changed(CONFIG, **options.pop("config", {}))
    return {name: told(*tiny.run(PAIRS, config, test_pairs=HELD_OUT, **options))}


def told(result: TrainResult, model: Any) -> dict[str, Any]:
    adapter = {name: tensor.tolist() for name, tensor in tiny.adapter_state(model).items()}
    return {"steps": result.steps, "evals": result.evals, "adapter": adapter}


def one_cannot_share(folder: Path, rank: int) -> dict[str, Any]:
    """Train where the last rank has no kernel for shared rows."""
    is_last = rank == int(os.environ.get("WORLD_SIZE", "1")) - 1
    with mock.patch.object(attention, "kernels_for", (lambda *_: []) if is_last else attention.kernels_for):
        return trained("one cannot share", folder, runtime=SMALL)


def stopped(folder: Path, rank: int) -> dict[str, Any]:
    """Tell only the last rank to stop, twice, then go on; each rank has a disk of its own."""
    last, stops = rank == int(os.environ.get("WORLD_SIZE", "1")) - 1, 0
    while True:
        model, seen = tiny.policy(seed=CONFIG.seed), []

        def stop_soon(*_: object, seen: list[int] = seen, is_due: bool = last and stops < 2) -> None:
            seen.append(int(torch.is_grad_enabled()))
            if is_due and sum(seen) == 1 and seen[-1]:
                os.kill(os.getpid(), signal.SIGTERM)

        model.get_base_model().model.register_forward_hook(stop_soon)
        try:
            result, _ = tiny.run(PAIRS, CONFIG, SMALL, HELD_OUT, checkpoints=folder / f"disk{rank}", model=model)
        except Preempted:
            stops += 1
            continue
        found = newest_checkpoint(folder / f"disk{rank}")
        return {"stopped": {**told(result, model), "stops": stops, "checkpoint": found.step if found else None}}


def diverged() -> dict[str, Any]:
    """Return what every rank is told of a learning rate out of all bounds."""
    try:
        tiny.run(PAIRS, tiny.changed(CONFIG, learning_rate=1e6, epochs=8), SMALL, HELD_OUT)
    except ConfigError as error:
        return {"diverged": str(error)}
    return {"diverged": None}


def main(folder: Path) -> None:
    """Run everything and write this rank's findings."""
    rank = int(os.environ.get("RANK", "0"))
    reference = reference_logps(tiny.moved(tiny.policy("gpt_neox")), PAIRS, SMALL).logps
    found = {
        **trained("plain", folder, runtime=SMALL),
        **trained("one batch", folder, runtime=tiny.budget(65536)),
        **trained("checkpointing", folder, runtime=tiny.budget(96, gradient_checkpointing=True)),
        **trained("unreached", folder, runtime=SMALL, config={"weight_decay": 0.5}, model=half_dead()),
        **trained("dropout", folder, runtime=SMALL, config={"lora": DROPPED}),
        **trained("head", folder, runtime=SMALL, config={"lora": HEAD}),
        **one_cannot_share(folder, rank),
        **stopped(folder, rank),
        **diverged(),
    }
    found["hashes"] = tiny.adapter_bytes(tiny.moved(tiny.policy()), folder / f"adapter{rank}")
    np.save(folder / f"reference{rank}.npy", reference)
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


DROPPED = LoraSettings(rank=4, alpha=8, dropout=0.3)
HEAD = LoraSettings(rank=4, alpha=8, target_modules=("lm_head", "v_proj"))


def half_dead() -> Any:
    """Return a policy in which some adapters never get a gradient."""
    model = tiny.policy(seed=CONFIG.seed)
    model.get_base_model().model.layers[0].self_attn.register_forward_hook(lambda *_: (torch.zeros(()), None))
    return model


def forked(rank: int, ranks: int, folder: Path) -> None:
    """Run everything as one of several ranks, forked from a process that has imported what they need."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks))
    meet = f"file://{folder.resolve() / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=ranks)
    main(folder)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        count = int(sys.argv[2])
        torch.multiprocessing.start_processes(forked, (count, Path(sys.argv[1])), count, start_method="fork")
    else:
        main(Path(sys.argv[1]))
