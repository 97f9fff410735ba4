"""From pairs to what the losses see of them: one micro-batch, or all pairs of a step gathered over the ranks.

Shape suffixes: N completion tokens, n pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from tasks.dpo.layout import Batch
from tasks.dpo.logps import Scorer, sum_by_branch
from tasks.dpo.objectives import length_desensitised_weights
from tasks.dpo.plan import Rows
from tasks.dpo.preference import ObjectiveConfig, PairScores
from tasks.dpo.refcache import ScoredPairs

_GATHERED = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected", "wpo_chosen", "wpo_rejected")


@dataclasses.dataclass(frozen=True)
class Forward:
    """What one forward says of its pairs.

    Attributes:
        scores: What the losses see.
        nll_n: -Σ log π over the chosen completion's tokens, float64.
    """

    scores: PairScores
    nll_n: Tensor


class PairForward:
    """Scores pairs of a data set for one objective.

    Args:
        scorer: Of the policy.
        objective: Whose needs are met: token weights, WPO's means.
        moving_reference: Gives a batch's log-probabilities under a reference that moves, [N]; None for the fixed one.
    """

    def __init__(
        self, scorer: Scorer, objective: ObjectiveConfig, moving_reference: Callable[[Batch], Tensor] | None = None
    ) -> None:
        self._scorer, self._objective, self._moving = scorer, objective, moving_reference

    def __call__(self, data: ScoredPairs, rows: Rows, is_reference_fixed: bool = True) -> Forward:
        """Score ``rows`` of ``data``; differentiable with respect to the adapters, when gradients are on."""
        batch = self._scorer.lay_out([data.tokens.row(int(row)) for row in rows])
        found = self._scorer.score(batch, self._objective.wpo)
        weights_N = self._token_weights(batch)
        chosen_n, rejected_n = sum_by_branch(found.logp_N, batch, weights_N)
        if self._moving is not None and not is_reference_fixed:
            reference = sum_by_branch(self._moving(batch), batch, weights_N)
        elif weights_N is not None:
            logps_N = torch.from_numpy(data.token_logps(rows)).to(chosen_n.device)
            reference = sum_by_branch(logps_N, batch, weights_N)
        else:
            reference = tuple_of(*(sums.to(chosen_n.device) for sums in data.sums(rows)))
        wpo = None
        if found.collision_N is not None:
            totals = sum_by_branch(found.logp_N.detach() - found.collision_N, batch)
            wpo = tuple_of(*(total / count for total, count in zip(totals, token_counts(data, rows), strict=True)))
        scores = pair_scores(data, rows, (chosen_n, rejected_n), reference, wpo)
        is_chosen_N = (batch.branch_N % 2 == 0).double()
        return Forward(scores, -sum_by_branch(found.logp_N, batch, is_chosen_N)[0])

    def _token_weights(self, batch: Batch) -> Tensor | None:
        if self._objective.ld_alpha == 1.0:
            return None
        lengths = torch.bincount(batch.branch_N, minlength=2 * batch.pairs)
        return length_desensitised_weights(lengths, self._objective.ld_alpha)


Two = tuple[Tensor, Tensor]


def tuple_of(first: Tensor, second: Tensor) -> Two:
    """Return the two as a pair."""
    return first, second


def token_counts(data: ScoredPairs, rows: Rows) -> Two:
    """Return the tokens of chosen and of rejected, float64 [n] each."""
    counts = torch.from_numpy(data.tokens.lengths[rows, 1:].astype(np.float64))
    return counts[:, 0], counts[:, 1]


def pair_scores(data: ScoredPairs, rows: Rows, policy: Two, reference: Two, wpo: Two | None) -> PairScores:
    """Put together what the losses see of ``rows``, on the device of ``policy``."""
    device = policy[0].device
    columns = (data.tokens.weights[rows], data.tokens.margins[rows])
    weight, margin = (torch.from_numpy(column.astype(np.float64)).to(device) for column in columns)
    chosen_tokens, rejected_tokens = (count.to(device) for count in token_counts(data, rows))
    wpo_chosen, wpo_rejected = (None, None) if wpo is None else wpo
    return PairScores(*policy, *reference, chosen_tokens, rejected_tokens, weight, margin, wpo_chosen, wpo_rejected)


def gathered(
    parts: Sequence[tuple[Rows, Forward]],
    data: ScoredPairs,
    rows: Rows,
    add_up: Callable[[Tensor], Tensor],
    device: torch.device,
) -> Forward:
    """Return the scores of all ``rows``, in their order, from every rank's own parts; without gradient.

    Args:
        parts: This rank's micro-batches and their forwards.
        data: What the rows are rows of.
        rows: All rows that the ranks have together.
        add_up: Sums a tensor over the ranks.
        device: Where to.
    """
    table = torch.zeros(len(rows), len(_GATHERED) + 1, dtype=torch.float64, device=device)
    order = np.argsort(rows)
    for own, forward in parts:
        columns = [getattr(forward.scores, name) for name in _GATHERED]
        filled = [torch.zeros_like(forward.nll_n) if column is None else column for column in columns]
        places = torch.from_numpy(order[np.searchsorted(rows, own, sorter=order)]).to(device)
        table[places] = torch.stack([*filled, forward.nll_n], 1).detach()
    table = add_up(table)  # each row is one rank's and zero elsewhere, so the sum is exact
    policy, reference, wpo = ((table[:, i], table[:, i + 1]) for i in (0, 2, 4))
    return Forward(pair_scores(data, rows, policy, reference, wpo), table[:, 6])
