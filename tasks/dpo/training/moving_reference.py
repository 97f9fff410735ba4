"""A reference that moves: an earlier state of the same adapters, on the same base. It is off by default.

`epoch` takes the policy as the reference at the start of every epoch but the first. `moving` is TR-DPO's
soft update (arXiv:2404.09656, Eq. 6): θ_ref ← α θ + (1 - α) θ_ref every τ steps. For LoRA the average is
over the adapters' factors A and B, not over their product. Either way the reference's log-probabilities
are computed with the batch, by one more forward with the same kernels as the policy's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tasks.dpo.model.evaluation import evaluation_mode
from tasks.dpo.scoring.layout import Batch
from tasks.dpo.scoring.scorer import Scorer
from tasks.dpo.training.train_config import ReferenceUpdate


class MovingReference:
    """The reference's adapters, and when they change.

    Args:
        parameters: The policy's adapters.
        update: How the reference moves.
        steps_per_epoch: Optimizer steps of one epoch.

    Attributes:
        values: The reference's adapters, in the order of the policy's; empty while the fixed reference is used.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], update: ReferenceUpdate, steps_per_epoch: int) -> None:
        self._parameters, self._update, self._steps_per_epoch = parameters, update, steps_per_epoch
        self.values: list[Tensor] = []
        if update.mode == "moving":
            self.values = self._copies()

    @property
    def has_moved(self) -> bool:
        """Whether the reference is no longer the fixed one."""
        return bool(self.values)

    def restore(self, values: Sequence[Tensor]) -> None:
        """Restore the reference's adapters of a checkpoint."""
        self.values = [value.to(p.device, copy=True) for value, p in zip(values, self._parameters, strict=True)]

    @torch.no_grad()
    def before(self, step: int) -> None:
        """Move the reference if it moves before optimizer step ``step``, counted from 0."""
        if self._update.mode == "epoch" and step and step % self._steps_per_epoch == 0:
            self.values = self._copies()
        elif self._update.mode == "moving" and step and step % self._update.every_steps == 0:
            for value, parameter in zip(self.values, self._parameters, strict=True):
                value.lerp_(parameter, self._update.mix)

    @torch.no_grad()
    def logps(self, scorer: Scorer, batch: Batch) -> Tensor:
        """Return the batch's log-probabilities under the reference, [N]."""
        policy = [parameter.data for parameter in self._parameters]
        self._put(self.values)
        try:
            with evaluation_mode(scorer.model):
                return scorer.logps(batch)
        finally:
            self._put(policy)

    def _copies(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self._parameters]

    def _put(self, values: Sequence[Tensor]) -> None:
        """Give the model these adapters."""
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.data = value
