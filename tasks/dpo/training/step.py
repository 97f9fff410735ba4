"""The gradient of one optimizer step, summed over micro-batches: the same however the step is cut.

A step's loss is Σ w_i loss_i / Σ w_i over the pairs of all ranks, plus the chosen completions' mean negative
log-likelihood. Losses that sort the pairs, or take a mean over them, must see the whole step: then the pairs
are first scored without gradient and gathered, the loss's slope with respect to every pair's log-probabilities
is taken, and a second pass over the micro-batches carries it on into the adapters.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from tasks.dpo.capacity.budget import Budget, FixedBudget, within
from tasks.dpo.capacity.step_plan import Rows, Sizes, evened, micro_batches, share
from tasks.dpo.capacity.workload import Workload
from tasks.dpo.dataset.scored_pairs import ScoredPairs
from tasks.dpo.model.distributed import sum_over_ranks
from tasks.dpo.model.evaluation import evaluation_mode
from tasks.dpo.model.sharding import is_sharded
from tasks.dpo.objective.metrics import PairSums, with_nll
from tasks.dpo.objective.pair_loss import PairLoss, PairScores
from tasks.dpo.scoring.scorer import Scorer
from tasks.dpo.training.activation_offload import offloading
from tasks.dpo.training.forward import Forward, PairForward, gathered
from tasks.dpo.training.moving_reference import MovingReference
from tasks.dpo.training.train_config import TrainConfig

T = TypeVar("T")
Scored = tuple[Rows, Forward, bool]  # a micro-batch, what its forward says, and whether it counts


@dataclasses.dataclass(frozen=True)
class StepSums:
    """What this rank saw of a step.

    Attributes:
        pairs: Sums over its pairs.
        nll: Σ w_i · -log π(chosen_i), a scalar, float64.
        state: The objective's state after the step, the same on every rank.
    """

    pairs: PairSums
    nll: Tensor
    state: Tensor


class StepGradients:
    """Computes steps' gradients, and held-out numbers by the same passes.

    Args:
        scorer: Of the policy.
        data: The training pairs and the held-out ones.
        config: What is trained.
        tokens: How many fit at once, the same on every rank.
        accelerator: This rank and the others.
        reference: The reference, where it moves.

    Attributes:
        budget: The tokens that this rank takes at once.
        sizes: What the training pairs take, every prompt once.
        offloads: Whether what backward needs is kept in the host's memory.
    """

    def __init__(
        self,
        scorer: Scorer,
        data: tuple[ScoredPairs, ScoredPairs],
        config: TrainConfig,
        tokens: int,
        accelerator: Accelerator,
        reference: MovingReference,
    ) -> None:
        self._train, self._test = data
        self._config, self._accelerator = config, accelerator
        self._scorer, self._reference, self._is_sharded = scorer, reference, is_sharded(scorer.model)
        self._forward = PairForward(scorer, config.objective)
        self.loss = PairLoss(config.objective)
        columns = (part.tokens for part in data)
        has = [(bool((part.weights != 1).any()), bool((part.margins != 0).any())) for part in columns]
        self.loss.check_columns(any(weights for weights, _ in has), any(margins for _, margins in has))
        self._sizes = sizes = [Sizes.of(part.tokens, scorer.is_shared) for part in data]
        self.sizes = dataclasses.replace(sizes[0], is_shared=True)
        self._planned, self.offloads = tokens, False
        longest = max(Workload(sizes, 1).longest_pair for sizes in self._sizes)
        self.budget = (FixedBudget if self._is_sharded else Budget)(tokens, longest)

    def accumulate(self, step: int, rows: Rows, state: Tensor) -> StepSums:
        """Add the gradient of one step's loss to the adapters', which have none yet; return what this rank saw.

        Out of memory on a GPU, the token budget is halved and the rank's part begun again: nothing else changes.

        Raises:
            ConfigError: Not even one pair at a time fits.
        """
        slopes = self._slopes(step, rows, state) if self.loss.needs_whole_step else None
        return self._within(lambda: self._backward(step, rows, state, slopes))

    def evaluate(self, state: Tensor) -> dict[str, float]:
        """Return the means over all held-out pairs, the same on every rank, against the fixed reference.

        `nll` is among them where the objective has it.
        """
        rows = np.arange(len(self._test))

        def score_all() -> list[Scored]:
            return [(part, self._forward(self._test, part), counts) for part, counts in self._cut(self._test, rows)]

        with torch.inference_mode(), evaluation_mode(self._scorer.model):
            everything = self._gathered(self._within(score_all), self._test, rows)
            scores, weight_n = everything.scores, _weight_of(everything.scores)
            losses_n, _ = self.loss.losses(scores, state)
            means = PairSums.of(losses_n, scores, self._config.objective.beta).means()
            if not self.loss.nll_weight:
                return means
            nll = (weight_n * everything.nll_n).sum() / (weight_n * scores.chosen_tokens).sum()
            return with_nll(means, float(nll), self.loss.nll_weight)

    def _backward(self, step: int, rows: Rows, state: Tensor, slopes: _Slopes | None) -> StepSums:
        weight_n = self._train.tokens.weights[rows].astype(np.float64)
        pair_weight = float(weight_n.sum())
        token_weight = float((weight_n * self._train.tokens.lengths[rows, 1]).sum())
        beta, device = self._config.objective.beta, self._accelerator.device
        sums, nll = PairSums.zero(device), torch.zeros((), dtype=torch.float64, device=device)
        for part, counts in self._cut(self._train, rows):
            with offloading(self.offloads, device):
                found = self._score(step, part, needs_reference=slopes is None)
            if not counts:  # the other ranks need this one's part of the weights, forward and backward
                (0 * found.nll_n.sum()).backward()  # type: ignore[no-untyped-call]
                continue
            nll_part = (_weight_of(found.scores) * found.nll_n).sum() / token_weight
            if slopes is None:
                losses_n, _ = self.loss.losses(found.scores, state)
                loss = (_weight_of(found.scores) * losses_n).sum() / pair_weight
                sums += PairSums.of(losses_n, found.scores, beta)
            else:
                loss = slopes.carried_on(part, found.scores)
            if self.loss.nll_weight:
                loss = loss + self.loss.nll_weight * nll_part
            loss.backward()  # type: ignore[no-untyped-call]
            nll = nll + nll_part.detach()
        if slopes is None:
            return StepSums(sums, nll, state)
        return StepSums(slopes.sums if self._accelerator.is_main_process else sums, nll, slopes.state)

    def _slopes(self, step: int, rows: Rows, state: Tensor) -> _Slopes:
        """Score all pairs of the step, and take the loss's slope with respect to each."""

        def score_all() -> list[Scored]:
            return [(part, self._score(step, part), counts) for part, counts in self._cut(self._train, rows)]

        with torch.no_grad():
            scores = self._gathered(self._within(score_all), self._train, rows).scores
        leaves = [column.clone().requires_grad_() for column in (scores.policy_chosen, scores.policy_rejected)]
        scores = dataclasses.replace(scores, policy_chosen=leaves[0], policy_rejected=leaves[1])
        losses_n, state = self.loss.losses(scores, state)
        weight_n = _weight_of(scores)
        slope_n = torch.autograd.grad((weight_n * losses_n).sum() / weight_n.sum(), leaves)
        sums = PairSums.of(losses_n, scores, self._config.objective.beta)
        return _Slopes(rows, slope_n[0], slope_n[1], sums, state.detach())

    def _score(self, step: int, part: Rows, needs_reference: bool = True) -> Forward:
        """Score pairs for training; where nobody needs the reference, one that moved is not asked."""
        if self._config.lora.dropout:
            self._scorer.dropout.begin(self._config.seed, step)
            # layers that keep PEFT's forward (DoRA) draw from torch's generator, by micro-batch
            torch.manual_seed(int(np.random.SeedSequence([self._config.seed, step, int(part[0])]).generate_state(1)[0]))
        is_asked = needs_reference and self._reference.has_moved
        moved = functools.partial(self._reference.logps, self._scorer) if is_asked else None
        return self._forward(self._train, part, moved)

    def _gathered(self, passes: list[Scored], data: ScoredPairs, rows: Rows) -> Forward:
        parts = [(part, found) for part, found, counts in passes if counts]

        def add_up(table: Tensor) -> Tensor:
            return sum_over_ranks(self._accelerator, table)

        return gathered(parts, data, rows, add_up, self._accelerator.device)

    def _cut(self, data: ScoredPairs, rows: Rows) -> list[tuple[Rows, bool]]:
        """Return this rank's micro-batches of ``rows``, each with whether it counts.

        Whose pairs are whose is planned with the budget that all ranks agreed on; a rank that ran out of memory
        since then cuts its own ones finer.
        """
        sizes, own = self._sizes[data is self._test], (self._accelerator.process_index, self._accelerator.num_processes)
        batches = micro_batches(rows, sizes, self._planned, own[1])
        if self._is_sharded:
            return evened(batches, sizes, *own)
        mine = share(batches, sizes, *own)
        if self.budget.tokens < self._planned and mine:
            mine = micro_batches(np.concatenate(mine), sizes, self.budget.tokens)
        return [(part, True) for part in mine]

    def _within(self, work: Callable[[], T]) -> T:
        """Do ``work``, which talks to no other rank, with less and less at once until it fits."""

        def undo() -> None:
            self._scorer.model.zero_grad(set_to_none=True)

        return within(self.budget, lambda _: work(), undo)


@dataclasses.dataclass(frozen=True)
class _Slopes:
    """The slope of a step's loss with respect to the log-probabilities of each of its pairs."""

    rows: Rows
    chosen_n: Tensor
    rejected_n: Tensor
    sums: PairSums
    state: Tensor

    def carried_on(self, part: Rows, scores: PairScores) -> Tensor:
        """Return a scalar that has this slope in the scores of ``part``."""
        order = np.argsort(self.rows)
        places = torch.from_numpy(order[np.searchsorted(self.rows, part, sorter=order)]).to(self.chosen_n.device)
        chosen = self.chosen_n[places] * scores.policy_chosen
        return (chosen + self.rejected_n[places] * scores.policy_rejected).sum()


def _weight_of(scores: PairScores) -> Tensor:
    return torch.ones_like(scores.chosen_tokens) if scores.weight is None else scores.weight
