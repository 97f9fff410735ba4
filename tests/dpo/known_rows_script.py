"""Scoring with a row store on several ranks, each with a disk of its own: run under torchrun, with a folder.

python -m torch.distributed.run --standalone --nproc_per_node=2 tests/dpo/known_rows_script.py FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

from tasks.core.errors import Preempted
from tasks.dpo.dataset import blocks
from tasks.dpo.reference.reference_pass import ReferencePass
from tasks.dpo.reference.row_identity import ReferenceIdentity
from tasks.dpo.reference.row_recall import RowRecall
from tasks.rowstore.row_store import RowStore
from tests.dpo import tiny

PAIRS = tiny.pairs(17)
IDENTITY = ReferenceIdentity("b" * 64, None, "float32")
SMALL = tiny.budget(64)


def recall(folder: Path) -> RowRecall:
    return RowRecall(RowStore.open(folder, "reference"), IDENTITY)


def score(disk: Path, pairs: int, stop_at: int = 0) -> tuple[np.ndarray, ReferencePass]:
    """Score the first ``pairs`` pairs; the process gets SIGTERM in the model's forward ``stop_at``."""
    model, seen = tiny.base(), []

    def stop_soon(*_: object) -> None:
        seen.append(1)
        if len(seen) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    model.model.register_forward_hook(stop_soon)
    scoring = ReferencePass(lambda: model, SMALL, recall(disk))
    return np.concatenate(list(scoring.blocks(blocks.part(PAIRS, 0, pairs)))), scoring


def trials(rank: int) -> int:
    """Return how many forwards a scorer makes of its own; the one pair goes to rank 0."""
    model, seen = tiny.base(), []
    model.model.register_forward_hook(lambda *_: seen.append(1))
    list(ReferencePass(lambda: model, SMALL).blocks(blocks.part(PAIRS, 0, 1)))
    return len(seen) - (rank == 0)


def main(folder: Path) -> None:
    """Score some, be stopped, go on, and score with all known; write what each rank saw."""
    rank = int(os.environ.get("RANK", "0"))
    disk = folder / f"disk{rank}"
    first, some = score(disk, 5)
    stopped = ""
    try:
        score(disk, 17, stop_at=trials(rank) + 2)
    except Preempted as error:
        stopped = str(error)
    every, rest = score(disk, 17)
    again, none = score(disk, 17)
    counts = [(scoring.scored, scoring.recalled) for scoring in (some, rest, none)]
    np.save(folder / f"rank{rank}.npy", every)
    told = {"same": bool(np.array_equal(every, again)), "first": bool(np.array_equal(every[: len(first)], first))}
    (folder / f"rank{rank}.json").write_text(json.dumps({"counts": counts, "stopped": stopped, **told}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
