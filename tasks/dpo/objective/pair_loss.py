"""The objective of a run: which losses, with which weights, and the running means that they keep.

``ObjectiveConfig`` is the mapping `train.objective` of params.yaml and refuses settings that a loss would silently
ignore; ``PairLoss`` applies it to the sums of log-probabilities of some pairs.

docs/losses.md lists every loss, and where ours differs from TRL or from its paper.

Shape suffix: ``_n`` is one number a pair, float64; log-probabilities in nats.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from tasks.core.errors import ConfigError
from tasks.core.section import Section, above, at_least, between
from tasks.dpo.objective import loss_table, losses
from tasks.dpo.objective.divergences import Divergence, divergence_score


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig(Section, path="train.objective"):
    """The objective that training minimises: the mapping `train.objective` of params.yaml.

    Attributes:
        loss: The name of one loss, or a mapping of names to weights above 0, whose weighted sum it is.
        beta: β of Eq. 7 of arXiv:2305.18290; τ of `ipo`, in 1 / nats a token.
        label_smoothing: Assumed share of wrong labels, in [0, 0.5); `exo_pair` needs one above 0.
        nll_weight: Weight of the chosen completions' negative log-likelihood (mean over the step's tokens).
        divergence: The divergence from the reference that is penalised.
        divergence_alpha: α of the divergence `alpha`.
        ld_alpha: LD-DPO's weight of the tokens beyond the shorter completion's length; 1 is off.
        wpo: Whether pairs are weighted by their likelihood under the policy itself (WPO).
        discopop_tau: τ of `discopop`.
        bco_momentum: How slowly `bco_pair`'s reward shift follows the step's mean reward; 1 leaves it at 0.
        adaptive_beta_gain: How strongly β follows the step's mean margin (β-DPO); 0 is off.
        adaptive_beta_momentum: How slowly the running mean margin follows, as in the paper of β-DPO.
    """

    REMOVED: ClassVar[Mapping[str, str]] = {"adaptive_beta_momentum": "delete it: it is 0.9, as in its paper"}
    adaptive_beta_momentum: ClassVar[float] = 0.9

    loss: str | dict[str, Annotated[float, above(0)]] = "sigmoid"
    beta: Annotated[float, above(0, "for example 0.1")] = 0.1
    label_smoothing: Annotated[float, between(0, 0.5, "[)")] = 0.0
    nll_weight: Annotated[float, at_least(0, "where 0 is off")] = 0.0
    divergence: Divergence = "reverse_kl"
    divergence_alpha: float = 0.5
    ld_alpha: Annotated[float, between(0, 1, note="where 1 is off")] = 1.0
    wpo: bool = False
    discopop_tau: Annotated[float, above(0, "for example 0.05")] = 0.05
    bco_momentum: Annotated[float, between(0, 1, note="where 1 is off")] = 1.0
    adaptive_beta_gain: Annotated[float, at_least(0, "for example 0.6; 0 is off")] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        names = (*loss_table.LOSSES, "sft")
        self.require(len(self.mix) > 0, "loss", "name at least one loss")
        for name in self.mix:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"choose among: {', '.join(names)}"
            self.require(name in names, "loss", hint, name)
        _check_combinations(self)

    @property
    def mix(self) -> dict[str, float]:
        """The losses and their weights, `sft` included."""
        return {self.loss: 1.0} if isinstance(self.loss, str) else dict(self.loss)


@dataclasses.dataclass(frozen=True)
class PairScores:
    """What the losses take of n pairs, each field float64 [n] or absent.

    Attributes:
        policy_chosen: Σ log π over the chosen completion's tokens, differentiable; with LD-DPO's token weights.
        policy_rejected: The same of the rejected completion.
        reference_chosen: The same under the reference, with the same token weights.
        reference_rejected: The same.
        chosen_tokens: Tokens of the chosen completion, all of them.
        rejected_tokens: Tokens of the rejected one.
        weight: The data's weight of each pair; absent is 1.
        margin: The reward that β h must exceed, the data's column; absent is 0.
        wpo_chosen: a of :func:`tasks.dpo.objective.losses.alignment_weights` for chosen, where WPO is on.
        wpo_rejected: The same of the rejected one.
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    weight: Tensor | None = None
    margin: Tensor | None = None
    wpo_chosen: Tensor | None = None
    wpo_rejected: Tensor | None = None

    @property
    def weight_n(self) -> Tensor:
        """The weight of each pair, 1 where the data has none."""
        return torch.ones_like(self.chosen_tokens) if self.weight is None else self.weight


class PairLoss:
    """The losses of pairs under one configuration; it holds no state but that configuration.

    Attributes:
        needs_whole_step: Whether :meth:`losses` must see all pairs of an optimizer step at once, of all
            ranks and in the plan's order: the loss sorts them, or takes a mean over them.
        nll_weight: Weight of the chosen completions' mean negative log-likelihood, that of `sft` included;
            the trainer adds this term, because it is a mean over tokens and not over pairs.
    """

    def __init__(self, config: ObjectiveConfig) -> None:
        self._config, self._mix = config, config.mix
        self.nll_weight = config.nll_weight + self._mix.pop("sft", 0.0)
        self._divergence_score = divergence_score(config.divergence, config.divergence_alpha)
        self._has_running_means = config.adaptive_beta_gain > 0 or config.bco_momentum < 1
        self.needs_whole_step = self._has_running_means or not loss_table.SORTED.isdisjoint(self._mix)
        self._is_plain_dpo = config == ObjectiveConfig(beta=config.beta)

    def check_columns(self, has_weights: bool, has_margins: bool) -> None:
        """Refuse data columns that the losses would ignore; call it once, before training.

        Args:
            has_weights: Whether any pair's weight differs from 1.
            has_margins: Whether any pair's margin differs from 0.

        Raises:
            ConfigError: Naming the losses that cannot use the column.
        """
        losses_of_pairs = self._mix.keys()
        for is_given, is_used, column, able in (
            (has_weights, losses_of_pairs <= loss_table.WEIGHED, "weights", loss_table.WEIGHED),
            (has_margins, losses_of_pairs and losses_of_pairs <= loss_table.SHIFTED, "margins", loss_table.SHIFTED),
        ):
            if is_given and not is_used:
                unable = _list(losses_of_pairs - able) or "sft"
                raise ConfigError(
                    f"`train.objective.loss` is {unable}, which has no place for the {column} in the data",
                    f"drop that column, or choose among: {_list(able)}",
                )

    def state0(self) -> Tensor:
        """Return the state before the first step, float64 [2]: running mean margin in nats, running mean reward.

        The caller moves it to the scores' device and saves it with checkpoints.
        """
        return torch.zeros(2, dtype=torch.float64)

    def losses(self, scores: PairScores, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of each pair, float64 [n], without the data's weights, and the state after the step.

        Pure. A loss that sorts gives n numbers of which only the sum has a meaning. Where
        ``needs_whole_step`` is false the state is returned unchanged, however the pairs are split. For a
        held-out set give all its pairs with the state of training, and drop the new one.
        """
        config = self._config
        if self._is_plain_dpo and scores.margin is None:
            sums = (scores.policy_chosen, scores.policy_rejected, scores.reference_chosen, scores.reference_rejected)
            return losses.dpo_loss(*sums, config.beta)[0], state

        chosen_n = scores.policy_chosen - scores.reference_chosen
        rejected_n = scores.policy_rejected - scores.reference_rejected
        beta, shift, state = self._running_means(chosen_n.detach(), rejected_n.detach(), scores.weight_n, state)

        # h and h̄ of the divergence's scores; the data's margin m is a reward: β (h - m / β) = β h - m
        margin = 0.0 if scores.margin is None else scores.margin / beta
        chosen_score_n, rejected_score_n = self._divergence_score(chosen_n), self._divergence_score(rejected_n)
        margin_n = chosen_score_n - rejected_score_n - margin
        tokens = (scores.chosen_tokens, scores.rejected_tokens)
        mean_margin_n = losses.token_mean_margin(chosen_score_n, rejected_score_n, *tokens) - margin

        total_n = torch.zeros_like(chosen_n)
        for name, weight in self._mix.items():
            if name in loss_table.OF_MARGIN:
                h_n = mean_margin_n if name in loss_table.OF_TOKEN_MEANS else margin_n
                loss_n = loss_table.OF_MARGIN[name](h_n, beta, config.label_smoothing, config.discopop_tau)
            elif name in loss_table.OF_LOG_RATIOS:
                loss_n = loss_table.OF_LOG_RATIOS[name](chosen_n, rejected_n, beta, config.label_smoothing, shift)
            else:  # aot, which compares two distributions of margins
                policy_margin_n = scores.policy_chosen - scores.policy_rejected
                reference_margin_n = scores.reference_chosen - scores.reference_rejected
                loss_n = losses.aot(policy_margin_n, reference_margin_n, beta, config.label_smoothing)
            total_n = total_n + weight * loss_n

        if config.wpo:
            if scores.wpo_chosen is None or scores.wpo_rejected is None:
                raise ValueError("WPO is on and the scores have no wpo_chosen and wpo_rejected")
            total_n = total_n * losses.alignment_weights(scores.wpo_chosen, scores.wpo_rejected)
        return total_n, state

    def _running_means(
        self, chosen_n: Tensor, rejected_n: Tensor, weight_n: Tensor, state: Tensor
    ) -> tuple[float | Tensor, float | Tensor, Tensor]:
        """Advance the running means by one step; return β, the reward shift δ and the new state.

        M ← m M + (1 - m) E[h], β = β0 (1 + g (E[h] - M)): β-DPO at the level of the batch, arXiv:2407.08639,
        with the margin in nats and the mean moved before it is used, as its authors' code does, and β held
        at β0 / 100 or more. δ ← m' δ + (1 - m') E[β (w + l) / 2]: the reward shift of arXiv:2404.04656.
        """
        config = self._config
        if not self._has_running_means:
            return config.beta, 0.0, state

        share_n = weight_n / weight_n.sum()
        margin = (share_n * (chosen_n - rejected_n)).sum()
        running_margin = torch.lerp(margin, state[0], config.adaptive_beta_momentum)
        beta = config.beta * (1 + config.adaptive_beta_gain * (margin - running_margin)).clamp(min=0.01)

        reward = beta * (share_n * (chosen_n + rejected_n)).sum() / 2
        shift = torch.lerp(reward, state[1], config.bco_momentum)
        return beta, shift, torch.stack([running_margin, shift])


def _check_combinations(config: ObjectiveConfig) -> None:
    """Refuse, by name, settings that a loss of the mix cannot have, or that none of them reads."""
    losses = config.mix.keys() - {"sft"}
    if "exo_pair" in losses:
        advice = "`exo_pair` takes its logarithm: give one above 0, for example 1e-3"
        config.require(config.label_smoothing > 0, "label_smoothing", advice)

    everything = frozenset(loss_table.LOSSES)
    rules: list[tuple[str, bool, frozenset[str], Literal["all", "any"]]] = [
        ("label_smoothing", config.label_smoothing > 0, loss_table.SMOOTHED, "any"),
        ("divergence", config.divergence != "reverse_kl", loss_table.DIVERGENT, "all"),
        ("ld_alpha", config.ld_alpha < 1, everything, "all"),
        ("wpo", config.wpo, loss_table.WEIGHED, "all"),
        ("bco_momentum", config.bco_momentum < 1, frozenset({"bco_pair"}), "any"),
        ("adaptive_beta_gain", config.adaptive_beta_gain > 0, everything, "all"),
    ]
    for key, is_on, able, needed in rules:
        unable = losses - able or (set() if losses else {"sft"})
        if is_on and unable and (needed == "all" or losses.isdisjoint(able)):
            raise ConfigError(
                f"`train.objective.{key}` is {getattr(config, key)!r}, which has no meaning for {_list(unable)}",
                f"leave it at {getattr(ObjectiveConfig, key)!r}, or choose among: {_list(able)}",
            )


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
