"""Which pairs make up each optimizer step, and how a step is cut into micro-batches.

The first is a pure function of (pairs, seed, epochs, pairs per step): the same for any number of
ranks and any memory. The second depends on the machine: it may change speed, never results,
because losses are summed over pairs and divided by the step's global count.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tasks.pairs.tokens.token_cache import TokenPairs

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


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The tokens of the rows of a data set, by which a forward's cost is counted.

    Attributes:
        lengths: Prompt, chosen and rejected tokens of each row, int64 [pairs, 3].
        prompt_of: A number for each row's prompt, equal where the prompts' tokens are equal, int64 [pairs].
        is_shared: Rows are laid out with every prompt once and no padding; else as two padded sequences a pair.
    """

    lengths: Rows
    prompt_of: Rows
    is_shared: bool

    @classmethod
    def of(cls, tokens: TokenPairs, is_shared: bool) -> Sizes:
        """Return the sizes of a token cache."""
        return cls(tokens.lengths.astype(np.int64), _prompt_numbers(tokens), is_shared)

    def tokens(self, rows: Rows) -> int:
        """Return the tokens of one forward over ``rows``."""
        prompt, chosen, rejected = self.lengths[rows].T
        if not self.is_shared:
            return int(2 * len(rows) * (prompt + np.maximum(chosen, rejected)).max())
        _, firsts = np.unique(self.prompt_of[rows], return_index=True)
        return int(prompt[firsts].sum() + chosen.sum() + rejected.sum())


def _prompt_numbers(tokens: TokenPairs) -> Rows:
    """Number the prompts; only rows with the same prompt id are compared token by token."""
    _, numbers, counts = np.unique(tokens.prompt_ids, return_inverse=True, return_counts=True)
    numbers = numbers.astype(np.int64)
    seen: dict[tuple[int, bytes], int] = {}
    for row in np.flatnonzero(counts[numbers] > 1):
        key = (int(numbers[row]), tokens.row(int(row)).prompt.tobytes())
        numbers[row] = seen.setdefault(key, len(counts) + len(seen))
    return numbers


def micro_batches(rows: Rows, sizes: Sizes, token_budget: int, at_least: int = 1) -> list[Rows]:
    """Cut the pairs of a step into micro-batches of at most ``token_budget`` tokens.

    A pair above the budget is a micro-batch alone. The result does not depend on the order of ``rows``.

    Args:
        rows: Row numbers, shape [n].
        sizes: The tokens of the rows.
        token_budget: Tokens of one forward: unique ones where prompts are shared, padded ones where not.
        at_least: Micro-batches wanted where there are as many pairs, so that no rank is idle.

    Returns:
        Micro-batches, the largest first.
    """
    cut = _pack if sizes.is_shared else _pad
    return sorted(cut(np.sort(rows), sizes, token_budget, at_least), key=lambda b: (-sizes.tokens(b), int(b[0])))


def _pack(rows: Rows, sizes: Sizes, token_budget: int, at_least: int) -> list[Rows]:
    """Pack units of rows with the same prompt, the largest first, each into the emptiest micro-batch."""
    most_pairs = math.ceil(len(rows) / max(1, min(at_least, len(rows))))
    same_prompt: dict[int, list[int]] = {}
    for row in rows.tolist():
        same_prompt.setdefault(int(sizes.prompt_of[row]), []).append(row)
    units = [unit for rows in same_prompt.values() for unit in _units(rows, sizes, token_budget, most_pairs)]
    units.sort(key=lambda unit: (-unit[0], unit[1][0]))

    # a heap of (tokens so far, number of the micro-batch); a new one is opened where the emptiest is too full
    wanted = max(min(at_least, len(units)), math.ceil(sum(cost for cost, _ in units) / token_budget))
    bins: list[list[int]] = [[] for _ in range(wanted)]
    loads = [(0, i) for i in range(wanted)]
    for cost, unit in units:
        load, least = loads[0]
        if load and load + cost > token_budget:
            least, load = len(bins), 0
            bins.append([])
            heapq.heappush(loads, (cost, least))
        else:
            heapq.heapreplace(loads, (load + cost, least))
        bins[least] += unit
    return [np.sort(np.array(members, dtype=np.int64)) for members in bins if members]


def _units(members: list[int], sizes: Sizes, token_budget: int, most_pairs: int) -> Iterator[tuple[int, list[int]]]:
    """Yield (tokens, rows) of each part of the rows of one prompt, cut where they exceed the budget."""
    prompt = int(sizes.lengths[members[0], 0])
    cost, unit = prompt, list[int]()
    for row in members:
        completions = int(sizes.lengths[row, 1:].sum())
        if unit and (cost + completions > token_budget or len(unit) >= most_pairs):
            yield cost, unit
            cost, unit = prompt, []
        cost, unit = cost + completions, [*unit, row]
    yield cost, unit


def _pad(rows: Rows, sizes: Sizes, token_budget: int, at_least: int) -> list[Rows]:
    """Put pairs of similar length together, two padded sequences a pair."""
    widths = sizes.lengths[:, 0] + sizes.lengths[:, 1:].max(axis=1)
    ordered = rows[np.lexsort((rows, -widths[rows]))]
    most = math.ceil(len(rows) / max(1, min(at_least, len(rows))))
    batches: list[Rows] = []
    start = 0
    while start < len(ordered):
        fits = max(1, token_budget // (2 * int(widths[ordered[start]])))
        batches.append(ordered[start : start + min(fits, most)])
        start += min(fits, most)
    return batches


def share(batches: list[Rows], sizes: Sizes, rank: int, world_size: int) -> list[Rows]:
    """Return the micro-batches of ``rank``: the largest first, each to the rank with the fewest tokens so far."""
    loads = [(0, r) for r in range(world_size)]
    batches_of_rank: list[Rows] = []
    for batch in sorted(batches, key=lambda b: (-sizes.tokens(b), int(b[0]))):
        load, owner = heapq.heappop(loads)
        if owner == rank:
            batches_of_rank.append(batch)
        heapq.heappush(loads, (load + sizes.tokens(batch), owner))
    return batches_of_rank


def evened(batches: list[Rows], sizes: Sizes, rank: int, world_size: int) -> list[tuple[Rows, bool]]:
    """Share micro-batches out so that every rank has the same number, some of them dummies; a pure function.

    All-gather is collective, so ranks with fewer micro-batches run dummy ones.

    Args:
        batches: All ranks' micro-batches.
        sizes: The tokens of their rows.
        rank: Whose micro-batches are returned.
        world_size: The number of ranks.

    Returns:
        The micro-batches of ``rank``, the largest first, each with whether it counts. Dummies come last; each is
        the smallest of all rows.
    """
    shares = [share(batches, sizes, each, world_size) for each in range(world_size)]
    idle = max(map(len, shares)) - len(shares[rank])
    counted = [(batch, True) for batch in shares[rank]]
    if not idle:
        return counted

    rows = np.concatenate(batches)
    smallest = rows[np.argmin(sizes.lengths[rows].sum(axis=1))][None]
    return [*counted, *[(smallest, False)] * idle]
