"""The workload of a training or a scoring: pairs, steps and epochs, in tokens and operations."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from tasks.dpo.capacity.flops import ModelShape, training_flops
from tasks.dpo.capacity.step_plan import Sizes


@dataclasses.dataclass(frozen=True)
class Workload:
    """A training or a scoring, as far as its cost goes.

    Attributes:
        sizes: The tokens of the pairs.
        pairs_per_step: Pairs of one optimizer step over all ranks; all pairs for scoring.
        passes: How often each pair is computed: the epochs of training, 1 for scoring.
        trains: Whether there is a backward pass.
    """

    sizes: Sizes
    pairs_per_step: int
    passes: int = 1
    trains: bool = True

    @property
    def longest_pair(self) -> int:
        """Tokens of a forward over the longest pair alone."""
        return int(self._tokens().max(initial=1))

    @property
    def longest_step(self) -> int:
        """Tokens of the longest pairs together, if they met in one step."""
        return int(np.sort(self._tokens())[-self.pairs_per_step :].sum()) or 1

    def flops(self, shape: ModelShape) -> float:
        """Floating-point operations of all passes."""
        return self.passes * training_flops(shape, self.sizes.lengths) / (1 if self.trains else 2)

    def _tokens(self) -> npt.NDArray[np.int64]:
        lengths = self.sizes.lengths
        if self.sizes.is_shared:
            return np.asarray(lengths.sum(axis=1))
        return np.asarray(2 * (lengths[:, 0] + lengths[:, 1:].max(axis=1)))
