"""The losses of pairs by the names that params.yaml gives them, and what each of them can be combined with.

Words are those of :mod:`tasks.dpo.objective.losses`: w and l are log-ratios, h is their margin, h̄ that of token
means; ε is the label smoothing, τ that of `discopop`, δ the reward shift of `bco_pair`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tasks.dpo.objective import losses

OF_MARGIN: dict[str, Callable[[Tensor, float | Tensor, float, float], Tensor]] = {
    "sigmoid": lambda margin_n, beta, smoothing, _: losses.sigmoid(margin_n, beta, smoothing),
    "sigmoid_norm": lambda margin_n, beta, smoothing, _: losses.sigmoid(margin_n, beta, smoothing),
    "hinge": lambda margin_n, beta, *_: losses.hinge(margin_n, beta),
    "ipo": lambda margin_n, beta, *_: losses.ipo(margin_n, beta),
    "robust": lambda margin_n, beta, smoothing, _: losses.robust(margin_n, beta, smoothing),
    "exo_pair": lambda margin_n, beta, smoothing, _: losses.exo_pair(margin_n, beta, smoothing),
    "discopop": lambda margin_n, beta, _, tau: losses.discopop(margin_n, beta, tau),
}
"""Losses of (h, β, ε, τ), or of (h̄, β, ε, τ) for those of `OF_TOKEN_MEANS`."""

OF_TOKEN_MEANS = frozenset({"sigmoid_norm", "ipo"})

OF_LOG_RATIOS: dict[str, Callable[[Tensor, Tensor, float | Tensor, float, float | Tensor], Tensor]] = {
    "nca_pair": lambda chosen_n, rejected_n, beta, *_: losses.nca_pair(chosen_n, rejected_n, beta),
    "bco_pair": lambda chosen_n, rejected_n, beta, _, shift: losses.bco_pair(chosen_n, rejected_n, beta, shift),
    "sppo_hard": lambda chosen_n, rejected_n, beta, *_: losses.sppo_hard(chosen_n, rejected_n, beta),
    "aot_unpaired": lambda chosen_n, rejected_n, beta, smoothing, _: losses.aot_unpaired(
        chosen_n, rejected_n, beta, smoothing
    ),
    "apo_zero": lambda chosen_n, rejected_n, beta, *_: losses.apo_zero(chosen_n, rejected_n, beta),
    "apo_down": lambda chosen_n, rejected_n, beta, *_: losses.apo_down(chosen_n, rejected_n, beta),
}
"""Losses of (w, l, β, ε, δ)."""

LOSSES = (*OF_MARGIN, *OF_LOG_RATIOS, "aot")
"""The names of all losses of pairs; `aot` takes the four sums, and `sft`, a loss of tokens, is the trainer's."""

SMOOTHED = frozenset({"sigmoid", "sigmoid_norm", "robust", "exo_pair", "aot", "aot_unpaired"})
"""The losses that use label smoothing."""
DIVERGENT = frozenset(OF_MARGIN)
"""The losses of a difference of scores, in which a divergence other than the reverse KL has a meaning."""
SHIFTED = DIVERGENT - {"ipo"}
"""The losses of β h alone, from which a data margin is subtracted (arXiv:2402.10571; Llama 2, arXiv:2307.09288)."""
SORTED = frozenset({"aot", "aot_unpaired"})
"""The losses that sort the pairs of a step."""
WEIGHED = frozenset(LOSSES) - SORTED
"""The losses that use the data's weights: in a sorted loss no number belongs to one pair."""
