"""The gradient of one optimizer step, summed over micro-batches: the same however the step is cut.

A step's loss is Σ w_i loss_i / Σ w_i over the pairs of all ranks, plus the chosen completions' mean negative
log-likelihood. Losses that sort the pairs, or take a mean over them, must see the whole step. For these the pairs
are first scored without gradient and gathered, and the loss's gradient with respect to every pair's
log-probabilities is computed. A second pass over the micro-batches backpropagates it into the adapters.
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

from tasks.dpo.capacity.budget import Budget, within
from tasks.dpo.capacity.step_plan import Rows, Sizes, evened, micro_batches, share
from tasks.dpo.capacity.workload import Workload
from tasks.dpo.dataset.scored_pairs import ScoredPairs
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


@dataclasses.dataclass(frozen=True)
class StepSums:
    """What this rank's pairs of a step add up to.

    Attributes:
        pairs: Sums over its pairs.
        nll: Σ w_i · -log π(chosen_i), a scalar, float64.
        state: The objective's state after the step, the same on every rank.
    """

    pairs: PairSums
    nll: Tensor
    state: Tensor


class StepGradients:
    """Computes the gradients of optimizer steps, and held-out numbers by the same forwards.

    Args:
        scorer: Of the policy.
        train_set: The training pairs.
        test_set: The held-out pairs.
        config: What is trained.
        tokens: Packed tokens of a micro-batch, the same on every rank.
        accelerator: This rank and the others.
        reference: The reference, where it moves.
        offloads: Whether what backward needs is kept in the host's memory.

    Attributes:
        loss: The objective.
        budget: The tokens that this rank takes at once.
        train_sizes: What the training pairs take.

    Raises:
        ConfigError: The data have a column that the objective would ignore.
    """

    def __init__(
        self,
        scorer: Scorer,
        train_set: ScoredPairs,
        test_set: ScoredPairs,
        config: TrainConfig,
        tokens: int,
        accelerator: Accelerator,
        reference: MovingReference,
        offloads: bool = False,
    ) -> None:
        # What is trained
        self._scorer, self._config, self._reference = scorer, config, reference
        self.loss = PairLoss(config.objective)
        self._forward = PairForward(scorer, config.objective)

        # Data
        self._train, self._test = train_set, test_set
        self.train_sizes, self._test_sizes = (Sizes.of(part.tokens, scorer.is_shared) for part in (train_set, test_set))
        columns = (train_set.tokens, test_set.tokens)
        self.loss.check_columns(
            has_weights=any(bool((part.weights != 1).any()) for part in columns),
            has_margins=any(bool((part.margins != 0).any()) for part in columns),
        )

        # Machine
        self._accelerator, self._offloads = accelerator, offloads
        self._is_sharded = is_sharded(scorer.model)
        self._agreed_tokens = tokens
        longest_pair = max(Workload(sizes, 1).longest_pair for sizes in (self.train_sizes, self._test_sizes))
        self.budget = Budget(tokens, longest_pair, self._is_sharded)

    def accumulate(self, step: int, rows: Rows, state: Tensor) -> StepSums:
        """Add the gradient of one step's loss to the adapters', which have none yet; return this rank's sums.

        Out of memory on a GPU, the token budget is halved and the rank's part begun again: nothing else changes.

        Raises:
            ConfigError: Not even one pair at a time fits.
        """
        gradients = self._logp_gradients(step, rows, state) if self.loss.needs_whole_step else None
        return self._within_budget(lambda: self._backward(step, rows, state, gradients))

    def evaluate(self, state: Tensor) -> dict[str, float]:
        """Return the means over all held-out pairs, the same on every rank, against the fixed reference.

        `nll` is among them where the objective has it.
        """
        rows = np.arange(len(self._test))
        with torch.inference_mode(), evaluation_mode(self._scorer.model):
            forward = self._score_all(self._test, rows, functools.partial(self._forward, self._test))
            scores, weight_n = forward.scores, forward.scores.weight_n
            losses_n, _ = self.loss.losses(scores, state)
            means = PairSums.of(losses_n, scores, self._config.objective.beta).means()
            if not self.loss.nll_weight:
                return means
            nll = (weight_n * forward.nll_n).sum() / (weight_n * scores.chosen_tokens).sum()
            return with_nll(means, float(nll), self.loss.nll_weight)

    def _backward(self, step: int, rows: Rows, state: Tensor, gradients: _LogpGradients | None) -> StepSums:
        """Go forward and backward through this rank's micro-batches of ``rows``."""
        # Both terms are means over all ranks' pairs or tokens, so their divisors are those of the whole step
        weight_n = self._train.tokens.weights[rows].astype(np.float64)
        pair_weight = float(weight_n.sum())
        token_weight = float((weight_n * self._train.tokens.lengths[rows, 1]).sum())

        beta, device = self._config.objective.beta, self._accelerator.device
        sums, nll = PairSums.zero(device), torch.zeros((), dtype=torch.float64, device=device)
        for part, counts in self._cut(self._train, rows):
            with offloading(self._offloads, device):
                forward = self._score(step, part, needs_reference=gradients is None)
            if not counts:  # a sharded base: the other ranks need this one for all-gather, forward and backward
                (0 * forward.nll_n.sum()).backward()  # type: ignore[no-untyped-call]
                continue

            scores = forward.scores
            nll_part = (scores.weight_n * forward.nll_n).sum() / token_weight
            if gradients is None:
                losses_n, _ = self.loss.losses(scores, state)
                loss = (scores.weight_n * losses_n).sum() / pair_weight
                sums += PairSums.of(losses_n, scores, beta)
            else:
                loss = gradients.surrogate_loss(part, scores)
            if self.loss.nll_weight:
                loss = loss + self.loss.nll_weight * nll_part
            loss.backward()  # type: ignore[no-untyped-call]
            nll = nll + nll_part.detach()

        if gradients is None:
            return StepSums(sums, nll, state)
        # these sums are of all ranks' pairs already, so they count once
        return StepSums(gradients.sums if self._accelerator.is_main_process else sums, nll, gradients.state)

    def _logp_gradients(self, step: int, rows: Rows, state: Tensor) -> _LogpGradients:
        """Score all pairs of the step; return the loss's gradient with respect to each pair's log-probabilities."""
        with torch.no_grad():
            scores = self._score_all(self._train, rows, functools.partial(self._score, step)).scores

        leaves = [column.clone().requires_grad_() for column in (scores.policy_chosen, scores.policy_rejected)]
        scores = dataclasses.replace(scores, policy_chosen=leaves[0], policy_rejected=leaves[1])
        losses_n, state = self.loss.losses(scores, state)
        loss = (scores.weight_n * losses_n).sum() / scores.weight_n.sum()
        chosen_n, rejected_n = torch.autograd.grad(loss, leaves)

        sums = PairSums.of(losses_n, scores, self._config.objective.beta)
        return _LogpGradients(rows, chosen_n, rejected_n, sums, state.detach())

    def _score(self, step: int, part: Rows, needs_reference: bool = True) -> Forward:
        """Score pairs for training; a reference that moved is scored only where it is needed."""
        if self._config.lora.dropout:
            self._scorer.dropout.begin(self._config.seed, step)
            # layers that keep PEFT's forward (DoRA) draw from torch's generator, by micro-batch
            torch.manual_seed(int(np.random.SeedSequence([self._config.seed, step, int(part[0])]).generate_state(1)[0]))
        has_moved = needs_reference and self._reference.has_moved
        moved_reference = functools.partial(self._reference.logps, self._scorer) if has_moved else None
        return self._forward(self._train, part, moved_reference)

    def _score_all(self, data: ScoredPairs, rows: Rows, score: Callable[[Rows], Forward]) -> Forward:
        """Return the scores of all ``rows``, each rank's micro-batches scored by ``score`` and gathered."""

        def score_share() -> list[tuple[Rows, Forward]]:
            forwards = [(part, score(part), counts) for part, counts in self._cut(data, rows)]
            return [(part, forward) for part, forward, counts in forwards if counts]

        return gathered(self._within_budget(score_share), data, rows, self._accelerator)

    def _cut(self, data: ScoredPairs, rows: Rows) -> list[tuple[Rows, bool]]:
        """Return this rank's micro-batches of ``rows``, each with whether it counts.

        The ranks share the pairs out by the budget that all agreed on; a rank that ran out of memory since
        then cuts its own share finer.
        """
        sizes = self._test_sizes if data is self._test else self.train_sizes
        rank, ranks = self._accelerator.process_index, self._accelerator.num_processes
        batches = micro_batches(rows, sizes, self._agreed_tokens, ranks)
        if self._is_sharded:
            return evened(batches, sizes, rank, ranks)
        parts = share(batches, sizes, rank, ranks)
        if self.budget.tokens < self._agreed_tokens and parts:
            parts = micro_batches(np.concatenate(parts), sizes, self.budget.tokens)
        return [(part, True) for part in parts]

    def _within_budget(self, attempt: Callable[[], T]) -> T:
        """Return ``attempt()``, which talks to no other rank, made again with a smaller budget until it fits."""
        return within(self.budget, lambda _: attempt(), self._scorer.model.zero_grad)


@dataclasses.dataclass(frozen=True)
class _LogpGradients:
    """The gradient of a step's loss with respect to the log-probabilities of each of its pairs.

    Attributes:
        rows: The step's pairs, [n].
        chosen_n: ∂loss / ∂ Σ log π of chosen, in the order of ``rows``.
        rejected_n: The same of rejected.
        sums: Sums over all ranks' pairs.
        state: The objective's state after the step.
    """

    rows: Rows
    chosen_n: Tensor
    rejected_n: Tensor
    sums: PairSums
    state: Tensor

    def surrogate_loss(self, part: Rows, scores: PairScores) -> Tensor:
        """Return a scalar that has this gradient with respect to the scores of ``part``."""
        order = np.argsort(self.rows)
        places = torch.from_numpy(order[np.searchsorted(self.rows, part, sorter=order)]).to(self.chosen_n.device)
        chosen = self.chosen_n[places] * scores.policy_chosen
        return (chosen + self.rejected_n[places] * scores.policy_rejected).sum()
