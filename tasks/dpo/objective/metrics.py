"""Training and held-out numbers as sums over pairs, so that ranks and batch shapes cannot change them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from tasks.dpo.objective.losses import accuracy
from tasks.dpo.objective.pair_loss import PairScores

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
    """Sums over some pairs.

    Attributes:
        values: float64 [len(SUMS) + 2]: Σ w loss, Σ accuracy, … in the order of SUMS, then Σ w and the number of
            pairs; adding two gives the sums of both.
    """

    values: Tensor

    @classmethod
    def zero(cls, device: torch.device | str = "cpu") -> PairSums:
        """Return the sums over no pairs."""
        return cls(torch.zeros(len(SUMS) + 2, dtype=torch.float64, device=device))

    @classmethod
    def of(cls, losses_n: Tensor, scores: PairScores, beta: float) -> PairSums:
        """Sum over pairs.

        Args:
            losses_n: The objective of each pair, [n].
            scores: Their log-probabilities under policy and reference, and their weights.
            beta: Scales log-ratios to rewards.
        """
        # rewards and margins are those of Eq. 7 of arXiv:2305.18290, whatever the objective
        policy_chosen_n, policy_rejected_n = scores.policy_chosen.detach(), scores.policy_rejected.detach()
        chosen_n = policy_chosen_n - scores.reference_chosen
        rejected_n = policy_rejected_n - scores.reference_rejected
        margin_n = chosen_n - rejected_n

        columns = [
            scores.weight_n * losses_n.detach(),
            accuracy(margin_n),
            accuracy(policy_chosen_n - policy_rejected_n),
            beta * margin_n,
            beta * chosen_n,
            beta * rejected_n,
            policy_chosen_n,
            policy_rejected_n,
            scores.weight_n,
            torch.ones_like(margin_n),
        ]
        return cls(torch.stack(columns).double().sum(dim=1))

    def __add__(self, other: PairSums) -> PairSums:
        return PairSums(self.values + other.values)

    def means(self) -> dict[str, float]:
        """Return the mean of each quantity over the pairs; the loss's, without its NLL term, is weighted by the data.

        `accuracy` is the implicit reward's (policy against reference, ties a half); `ranking_accuracy`
        is the policy's own ranking by log-probability, without the reference.
        """
        loss, *sums, weight, count = self.values.tolist()
        means = {name: total / max(count, 1.0) for name, total in zip(SUMS[1:], sums, strict=True)}
        return {"loss": loss / weight if weight else 0.0, **means}


def with_nll(means: dict[str, float], nll: float, weight: float) -> dict[str, float]:
    """Return the means with `nll` added, and with the NLL term added to the loss.

    Args:
        means: Those of the pairs.
        nll: The chosen completions' mean negative log-likelihood.
        weight: The objective's weight of it.
    """
    loss = means["loss"] + weight * nll if weight else means["loss"]
    return {**means, "loss": loss, "nll": nll}
