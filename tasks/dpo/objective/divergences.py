"""f-divergences between policy and reference: the scores whose difference replaces DPO's margin.

With D_f instead of the reverse KL, the implicit reward of a completion is β f'(π/π_ref), up to a
constant of the prompt (f-DPO, arXiv:2309.16240). Each function returns f'(t) of the log-ratio r = log t, in
float64 without overflow. The constant cancels in a difference of two scores of one prompt and nowhere
else, so only losses of that difference can have a divergence.

Shape suffix: ``_n`` is one number a pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]

LARGEST_EXPONENT = 80.0
"""Exponents are clamped to this, e^80 = 5.5e34, so that gradients fit into float32; beyond it they are 0."""


def reverse_kl(log_ratio_n: Tensor) -> Tensor:
    """Return r: f(t) = t log t, f'(t) = log t + 1, whose 1 cancels. DPO as published."""
    return log_ratio_n


def forward_kl(log_ratio_n: Tensor) -> Tensor:
    """Return 1 - e^-r: f(t) = -log t + t - 1, f'(t) = 1 - 1/t. It falls without bound as π leaves π_ref's support."""
    return -torch.expm1((-log_ratio_n).clamp(max=LARGEST_EXPONENT))


def js(log_ratio_n: Tensor) -> Tensor:
    """Return log 2 + log σ(r), at most log 2: Jensen-Shannon, f'(t) = log(2t / (1 + t))."""
    return math.log(2) + F.logsigmoid(log_ratio_n)


def alpha(log_ratio_n: Tensor, order: float) -> Tensor:
    """Return (e^((α - 1) r) - 1) / (α - 1), and r where α = 1: f'(t) = (t^(α-1) - 1) / (α - 1).

    α = 0 is :func:`forward_kl`, α = 1 :func:`reverse_kl`. This α is TRL's, and 1 minus the α of
    arXiv:2309.16240, whose f'(t) is (1 - t^-α) / α; at ½ they are the same.

    Args:
        log_ratio_n: r, in nats.
        order: α, any number.
    """
    if abs(order - 1) < 1e-6:
        return reverse_kl(log_ratio_n)
    return torch.expm1(((order - 1) * log_ratio_n).clamp(max=LARGEST_EXPONENT)) / (order - 1)


def divergence_score(divergence: Divergence, order: float) -> Callable[[Tensor], Tensor]:
    """Return the score of ``divergence`` as a function of the log-ratio; only `alpha` uses ``order``, its α."""
    if divergence == "alpha":
        return lambda log_ratio_n: alpha(log_ratio_n, order)
    return {"reverse_kl": reverse_kl, "forward_kl": forward_kl, "js": js}[divergence]
