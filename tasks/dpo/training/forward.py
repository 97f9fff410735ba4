"""From pairs to the scores that losses take: of one micro-batch, or of all pairs of a step, gathered over the ranks.

Shape suffixes: N completion tokens, n pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from tasks.dpo.capacity.step_plan import Rows
from tasks.dpo.dataset.scored_pairs import ScoredPairs
from tasks.dpo.model.distributed import sum_over_ranks
from tasks.dpo.objective.losses import length_desensitised_weights
from tasks.dpo.objective.pair_loss import ObjectiveConfig, PairScores
from tasks.dpo.scoring.layout import Batch
from tasks.dpo.scoring.scorer import Scorer, sum_by_branch

_GATHERED = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected", "wpo_chosen", "wpo_rejected")


@dataclasses.dataclass(frozen=True)
class Forward:
    """The result of one forward over some pairs.

    Attributes:
        scores: What the losses take.
        nll_n: -Σ log π over the chosen completion's tokens, float64.
    """

    scores: PairScores
    nll_n: Tensor


class PairForward:
    """Scores pairs of a data set for one objective.

    Args:
        scorer: Of the policy.
        objective: Says whether token weights and WPO's means are needed.
    """

    def __init__(self, scorer: Scorer, objective: ObjectiveConfig) -> None:
        self._scorer, self._objective = scorer, objective

    def __call__(
        self, data: ScoredPairs, rows: Rows, moved_reference: Callable[[Batch], Tensor] | None = None
    ) -> Forward:
        """Score ``rows`` of ``data``; differentiable with respect to the adapters, when gradients are on.

        Args:
            data: The pairs with the fixed reference's log-probabilities.
            rows: Which of them.
            moved_reference: Gives a batch's log-probabilities under a reference that moved, [N]; None for the
                fixed one.
        """
        batch = self._scorer.lay_out([data.tokens.row(int(row)) for row in rows])
        token_scores = self._scorer.score(batch, self._objective.wpo)
        weights_N = None
        if self._objective.ld_alpha < 1:  # LD-DPO's weights come from lengths on the host: nothing waits for the device
            lengths_2n = torch.from_numpy(data.tokens.lengths[rows, 1:].astype(np.int64).reshape(-1))
            weights_N = length_desensitised_weights(lengths_2n, self._objective.ld_alpha).to(self._scorer.device)
        policy = sum_by_branch(token_scores.logp_N, batch, weights_N)
        device = policy[0].device

        # token weights apply to policy and reference alike; without them the stored sums will do
        if moved_reference is not None:
            reference = sum_by_branch(moved_reference(batch), batch, weights_N)
        elif weights_N is not None:
            reference = sum_by_branch(torch.from_numpy(data.token_logps(rows)).to(device), batch, weights_N)
        else:
            chosen_n, rejected_n = data.sums(rows)
            reference = chosen_n.to(device), rejected_n.to(device)

        scores = pair_scores(data, rows, policy, reference)
        if token_scores.collision_N is not None:
            chosen_n, rejected_n = sum_by_branch(token_scores.logp_N.detach() - token_scores.collision_N, batch)
            means = {"wpo_chosen": chosen_n / scores.chosen_tokens, "wpo_rejected": rejected_n / scores.rejected_tokens}
            scores = dataclasses.replace(scores, **means)

        is_chosen_N = (batch.branch_N % 2 == 0).double()
        nll_n = -sum_by_branch(token_scores.logp_N, batch, is_chosen_N)[0]
        return Forward(scores, nll_n)


Two = tuple[Tensor, Tensor]


def pair_scores(data: ScoredPairs, rows: Rows, policy: Two, reference: Two, wpo: Two | None = None) -> PairScores:
    """Return the scores of ``rows``, on the device of ``policy``; margins that are all 0 are left out."""
    device = policy[0].device
    weight = torch.from_numpy(data.tokens.weights[rows].astype(np.float64)).to(device)
    margins = data.tokens.margins[rows].astype(np.float64)
    margin = torch.from_numpy(margins).to(device) if margins.any() else None
    counts = torch.from_numpy(data.tokens.lengths[rows, 1:].astype(np.float64)).to(device)
    return PairScores(*policy, *reference, counts[:, 0], counts[:, 1], weight, margin, *(wpo or (None, None)))


def gathered(
    parts: Sequence[tuple[Rows, Forward]],
    data: ScoredPairs,
    rows: Rows,
    accelerator: Accelerator,
) -> Forward:
    """Return the scores of all ``rows``, in their order, from the parts of every rank; without gradient.

    Args:
        parts: This rank's micro-batches and their forwards.
        data: The data set of the rows.
        rows: All rows that the ranks have together.
        accelerator: This rank and the others.
    """
    device = accelerator.device
    table = torch.zeros(len(rows), len(_GATHERED) + 1, dtype=torch.float64, device=device)
    order = np.argsort(rows)
    for part, forward in parts:
        columns = [getattr(forward.scores, name) for name in _GATHERED]
        filled = [torch.zeros_like(forward.nll_n) if column is None else column for column in columns]
        places = torch.from_numpy(order[np.searchsorted(rows, part, sorter=order)]).to(device)
        table[places] = torch.stack([*filled, forward.nll_n], 1).detach()

    table = sum_over_ranks(accelerator, table)  # each row is one rank's and zero elsewhere, so the sum is exact
    policy, reference, wpo = ((table[:, i], table[:, i + 1]) for i in (0, 2, 4))
    return Forward(pair_scores(data, rows, policy, reference, wpo), table[:, 6])
