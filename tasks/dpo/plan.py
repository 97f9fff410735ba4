"""Which pairs make up each optimizer step, and how a step is cut into micro-batches.

The first is a pure function of (pairs, seed, epochs, pairs per step): the same for any number of
ranks and any memory. The second is a fact of the machine: it may change speed, never results,
because losses are summed over pairs and divided by the step's global count.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import math

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The order of training.

    Attributes:
        pairs: Number of training pairs.
        pairs_per_step: Pairs in an optimizer step over all ranks; the last step of an epoch is short.
        epochs: Passes over the pairs.
        seed: Seed of the shuffle; each epoch has an order of its own.
    """

    pairs: int
    pairs_per_step: int
    epochs: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass."""
        return math.ceil(self.pairs / self.pairs_per_step)

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.steps_per_epoch * self.epochs

    def rows(self, step: int) -> Rows:
        """Return the pairs of optimizer step ``step`` (counted from 0), as row numbers."""
        epoch, part = divmod(step, self.steps_per_epoch)
        order = _shuffled(self.pairs, self.seed, epoch)
        return order[part * self.pairs_per_step : (part + 1) * self.pairs_per_step]


@functools.lru_cache(maxsize=2)
def _shuffled(pairs: int, seed: int, epoch: int) -> Rows:
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(pairs).astype(np.int64)


def micro_batches(rows: Rows, widths: npt.NDArray[np.int64], token_budget: int, at_least: int = 1) -> list[Rows]:
    """Cut the pairs of a step into micro-batches of at most ``token_budget`` padded tokens.

    Pairs of like length go together. A pair alone above the budget is a micro-batch of its own.

    Args:
        rows: Row numbers, shape [n].
        widths: The longer branch's tokens (prompt and completion) of each row of the data, shape [pairs].
        token_budget: Padded tokens, two sequences a pair.
        at_least: Micro-batches wanted where there are as many pairs, so that no rank stands idle.

    Returns:
        Micro-batches, the widest first.
    """
    ordered = rows[np.lexsort((rows, -widths[rows]))]
    most = math.ceil(len(rows) / max(1, min(at_least, len(rows))))
    batches: list[Rows] = []
    start = 0
    while start < len(ordered):
        fits = max(1, token_budget // (2 * int(widths[ordered[start]])))
        batches.append(ordered[start : start + min(fits, most)])
        start += min(fits, most)
    return batches


def share(batches: list[Rows], widths: npt.NDArray[np.int64], rank: int, world_size: int) -> list[Rows]:
    """Return the micro-batches of ``rank``: the costliest first, each to the rank with least to do."""
    loads = [(0, r) for r in range(world_size)]
    mine: list[Rows] = []
    for batch in sorted(batches, key=lambda b: (-_cost(b, widths), int(b[0]))):
        load, owner = heapq.heappop(loads)
        if owner == rank:
            mine.append(batch)
        heapq.heappush(loads, (load + _cost(batch, widths), owner))
    return mine


def _cost(batch: Rows, widths: npt.NDArray[np.int64]) -> int:
    return int(len(batch) * widths[batch].max())
