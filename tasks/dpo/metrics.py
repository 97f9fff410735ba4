"""Training and held-out numbers as sums over pairs, so that ranks and batch shapes cannot change them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from tasks.dpo.objectives import accuracy

SUMS = (
    "loss",
    "accuracy",
    "ranking_accuracy",
    "margin",
    "reward_chosen",
    "reward_rejected",
    "logp_chosen",
    "logp_rejected",
)


@dataclasses.dataclass(frozen=True)
class PairSums:
    """What one micro-batch says of its pairs: Σ loss, Σ accuracy, … in the order of SUMS, then the count.

    Attributes:
        values: float64, shape [len(SUMS) + 1]; adding two gives the sums of both.
    """

    values: Tensor

    @classmethod
    def zero(cls, device: torch.device | str = "cpu") -> PairSums:
        """Return the sums over no pairs."""
        return cls(torch.zeros(len(SUMS) + 1, dtype=torch.float64, device=device))

    @classmethod
    def of(
        cls, losses_n: Tensor, policy: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor], beta: float
    ) -> PairSums:
        """Sum one micro-batch.

        Args:
            losses_n: The objective of each pair.
            policy: Summed log-probs of chosen and rejected under the policy, each [n], nats.
            reference: The same under the reference.
            beta: Scales log-ratios to rewards.
        """
        chosen_n, rejected_n = (p.detach() - r for p, r in zip(policy, reference, strict=True))
        margin_n = chosen_n - rejected_n
        columns = [
            losses_n.detach(),
            accuracy(margin_n),
            accuracy(policy[0].detach() - policy[1].detach()),
            beta * margin_n,
            beta * chosen_n,
            beta * rejected_n,
            policy[0].detach(),
            policy[1].detach(),
            torch.ones_like(margin_n),
        ]
        return cls(torch.stack(columns).double().sum(dim=1))

    def __add__(self, other: PairSums) -> PairSums:
        return PairSums(self.values + other.values)

    def means(self) -> dict[str, float]:
        """Return the mean of each quantity over the pairs.

        `accuracy` is the implicit reward's (policy against reference, ties a half); `ranking_accuracy`
        is the policy's own ranking by log-probability, without the reference.
        """
        *sums, count = self.values.tolist()
        return {name: total / max(count, 1.0) for name, total in zip(SUMS, sums, strict=True)}
