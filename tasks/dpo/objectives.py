"""Preference objectives: pure functions of summed log-probabilities, tensors in and tensors out.

Shape suffix: ``_n`` is one number a pair. Log-probabilities are float32 and their sums float64: sums
over hundreds of tokens lose whole nats in bfloat16.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def log_ratio_margin(
    policy_chosen_n: Tensor, policy_rejected_n: Tensor, reference_chosen_n: Tensor, reference_rejected_n: Tensor
) -> Tensor:
    """Return h = (log π(y_w|x) - log π_ref(y_w|x)) - (log π(y_l|x) - log π_ref(y_l|x)), shape [n], in nats.

    The term inside the sigmoid of Eq. 7 of arXiv:2305.18290, before β.
    """
    return (policy_chosen_n - reference_chosen_n) - (policy_rejected_n - reference_rejected_n)


def sigmoid(margin_n: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Return the DPO loss of each pair, shape [n].

    -(1 - ε) log σ(β h) - ε log σ(-β h): Eq. 7 of arXiv:2305.18290, with the conservative label
    smoothing of Eq. 3 in E. Mitchell's note on noisy preferences (cDPO, 2023).

    Args:
        margin_n: h of :func:`log_ratio_margin`, in nats.
        beta: β, the strength of the pull towards the reference.
        label_smoothing: ε, the assumed share of wrong labels, in [0, 0.5).
    """
    scaled_n = beta * margin_n
    return -(1 - label_smoothing) * F.logsigmoid(scaled_n) - label_smoothing * F.logsigmoid(-scaled_n)


OBJECTIVES = {"sigmoid": sigmoid}
"""The preference losses by the name that params.yaml gives them."""


def negative_log_likelihood(chosen_logps_t: Tensor) -> Tensor:
    """Return -Σ log π over the chosen completions' tokens, a scalar; divide by the global token count.

    The regulariser of Eq. 1 of arXiv:2404.19733, which keeps the chosen answers likely in themselves.
    """
    return -chosen_logps_t.double().sum()


def accuracy(margin_n: Tensor, tie: float = 1e-4) -> Tensor:
    """Return 1 where the implicit reward prefers chosen, ½ on a tie, else 0; shape [n].

    β cancels. Margins within ``tie`` nats are the arithmetic's own noise (policy = reference).
    """
    return torch.where(margin_n.abs() <= tie, 0.5, (margin_n > 0).float())
