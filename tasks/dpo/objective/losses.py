"""Preference objectives: pure functions of summed log-probabilities, tensors in and tensors out.

Shape suffix: ``_n`` is one number a pair. Log-probabilities are float32 and their sums float64: sums
over hundreds of tokens lose whole nats in bfloat16.

Words: w_n and l_n are the log-ratios log π(y|x) - log π_ref(y|x) of the chosen and of the rejected
completion, h_n = w_n - l_n is their margin, all in nats and before β; βw and βl are the implicit rewards.
Every loss is one number a pair, the smaller the better, and has the same shape [n] as its inputs.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def dpo_loss(
    policy_chosen_n: Tensor,
    policy_rejected_n: Tensor,
    reference_chosen_n: Tensor,
    reference_rejected_n: Tensor,
    beta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the DPO loss of each pair and the implicit rewards of chosen and rejected: Eq. 7 of arXiv:2305.18290.

    This is the default objective; the losses below are its variants, of w and l.

    Args:
        policy_chosen_n: Σ log π(y_w|x) over the completion's tokens, [n].
        policy_rejected_n: Σ log π(y_l|x), [n].
        reference_chosen_n: Σ log π_ref(y_w|x), [n].
        reference_rejected_n: Σ log π_ref(y_l|x), [n].
        beta: β, the strength of the pull towards the reference.

    Returns:
        The losses, and the rewards of chosen and of rejected, which have no gradient; each [n].
    """
    chosen_n = policy_chosen_n - reference_chosen_n
    rejected_n = policy_rejected_n - reference_rejected_n
    losses_n = -F.logsigmoid(beta * (chosen_n - rejected_n))
    return losses_n, beta * chosen_n.detach(), beta * rejected_n.detach()


def token_mean_margin(
    chosen_n: Tensor, rejected_n: Tensor, chosen_tokens_n: Tensor, rejected_tokens_n: Tensor
) -> Tensor:
    """Return h̄ = w / |y_w| - l / |y_l|, shape [n], in nats a token: the margin of `ipo` and of `sigmoid_norm`.

    Args:
        chosen_n: w, the log-ratio of each chosen completion.
        rejected_n: l, that of each rejected one.
        chosen_tokens_n: |y_w|, 1 or more.
        rejected_tokens_n: |y_l|, 1 or more.
    """
    return chosen_n / chosen_tokens_n - rejected_n / rejected_tokens_n


def sigmoid(margin_n: Tensor, beta: float | Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the DPO loss of each pair, shape [n].

    -(1 - ε) log σ(β h) - ε log σ(-β h): Eq. 7 of arXiv:2305.18290, with the conservative label
    smoothing of Eq. 3 in E. Mitchell's note on noisy preferences (cDPO, 2023). On the margin of
    :func:`token_mean_margin` it is `sigmoid_norm`, the length-normalised DPO of arXiv:2411.15124.

    Args:
        margin_n: h, in nats: the term inside the sigmoid of Eq. 7 of arXiv:2305.18290, before β.
        beta: β, the strength of the pull towards the reference.
        label_smoothing: ε, the assumed share of wrong labels, in [0, 0.5).
    """
    scaled_n = beta * margin_n
    return -(1 - label_smoothing) * F.logsigmoid(scaled_n) - label_smoothing * F.logsigmoid(-scaled_n)


def hinge(margin_n: Tensor, beta: float | Tensor) -> Tensor:
    """Return max(0, 1 - β h), shape [n]: SLiC's loss (arXiv:2305.10425) on DPO's margin, as in arXiv:2309.06657."""
    return torch.relu(1 - beta * margin_n)


def ipo(mean_margin_n: Tensor, beta: float | Tensor) -> Tensor:
    """Return (h̄ - 1 / (2τ))² with τ = β, shape [n]: Eq. 17 of arXiv:2310.12036.

    Args:
        mean_margin_n: h̄ of :func:`token_mean_margin`. The paper writes sums; its authors' results are of
            token means, which keep a long answer from having to move further than a short one.
        beta: τ, in 1 / nats a token.
    """
    return (mean_margin_n - 1 / (2 * beta)) ** 2


def robust(margin_n: Tensor, beta: float | Tensor, label_smoothing: float) -> Tensor:
    """Return [-(1 - ε) log σ(β h) + ε log σ(-β h)] / (1 - 2ε), shape [n]: rDPO, arXiv:2403.00409.

    Its expectation over labels flipped with probability ε is the loss of the clean labels.
    """
    scaled_n = beta * margin_n
    clean_n, flipped_n = -F.logsigmoid(scaled_n), -F.logsigmoid(-scaled_n)
    return ((1 - label_smoothing) * clean_n - label_smoothing * flipped_n) / (1 - 2 * label_smoothing)


def exo_pair(margin_n: Tensor, beta: float | Tensor, label_smoothing: float) -> Tensor:
    """Return KL(q || p), shape [n], with q = (σ(β h), σ(-β h)) and p = (1 - ε, ε): Eq. 16 of arXiv:2402.00856.

    Args:
        margin_n: h, in nats.
        beta: β.
        label_smoothing: ε, above 0 (the loss contains log ε); the paper takes 1e-3.
    """
    scaled_n = beta * margin_n
    log_q_n, log_not_q_n = F.logsigmoid(scaled_n), F.logsigmoid(-scaled_n)
    chosen_n = log_q_n.exp() * (log_q_n - math.log1p(-label_smoothing))
    return chosen_n + log_not_q_n.exp() * (log_not_q_n - math.log(label_smoothing))


def discopop(margin_n: Tensor, beta: float | Tensor, tau: float) -> Tensor:
    """Return σ(-z/τ) · -log σ(z) + σ(z/τ) · e^-z with z = β h, shape [n]: Eq. 5 of arXiv:2406.08414.

    The second product is computed in logarithms: a pair with a very negative z would give infinity times zero.

    Args:
        margin_n: h, in nats.
        beta: β.
        tau: τ, above 0; the paper takes 0.05.
    """
    scaled_n = beta * margin_n
    exponential_n = torch.exp(F.logsigmoid(scaled_n / tau) - scaled_n)
    return -torch.sigmoid(-scaled_n / tau) * F.logsigmoid(scaled_n) + exponential_n


def nca_pair(chosen_n: Tensor, rejected_n: Tensor, beta: float | Tensor) -> Tensor:
    """Return -log σ(βw) - ½ log σ(-βw) - ½ log σ(-βl), shape [n]: NCA (arXiv:2402.05369) of two answers.

    It raises the chosen reward itself, not only its distance from the rejected one.
    """
    return (
        -F.logsigmoid(beta * chosen_n) - 0.5 * F.logsigmoid(-beta * chosen_n) - 0.5 * F.logsigmoid(-beta * rejected_n)
    )


def bco_pair(chosen_n: Tensor, rejected_n: Tensor, beta: float | Tensor, shift: float | Tensor = 0.0) -> Tensor:
    """Return -log σ(βw - δ) - log σ(-(βl - δ)), shape [n]: BCO, arXiv:2404.04656, without its importance weights.

    Args:
        chosen_n: w, in nats.
        rejected_n: l, in nats.
        beta: β.
        shift: δ, the mean reward of chosen and rejected so far; a constant without gradient.
    """
    return -F.logsigmoid(beta * chosen_n - shift) - F.logsigmoid(-(beta * rejected_n - shift))


def sppo_hard(chosen_n: Tensor, rejected_n: Tensor, beta: float | Tensor) -> Tensor:
    """Return (w - 1/(2β))² + (l + 1/(2β))², shape [n]: Eq. 4.7 of arXiv:2405.00675, with η = 1/β.

    "Hard": the probability of winning is taken as 1 for chosen and 0 for rejected.
    """
    return (chosen_n - 0.5 / beta) ** 2 + (rejected_n + 0.5 / beta) ** 2


def apo_zero(chosen_n: Tensor, rejected_n: Tensor, beta: float | Tensor) -> Tensor:
    """Return 1 - σ(βw) + σ(βl), shape [n]: Eq. 7 of arXiv:2408.06266.

    For chosen answers that are better than the model's own: it raises them and lowers rejected ones.
    """
    return torch.sigmoid(-beta * chosen_n) + torch.sigmoid(beta * rejected_n)


def apo_down(chosen_n: Tensor, rejected_n: Tensor, beta: float | Tensor) -> Tensor:
    """Return σ(βw) + 1 - σ(β(w - l)), shape [n]: Eq. 8 of arXiv:2408.06266.

    For chosen answers that are worse than the model's own: it lowers both, rejected ones more.
    """
    return torch.sigmoid(beta * chosen_n) + torch.sigmoid(-beta * (chosen_n - rejected_n))


def aot(
    policy_margin_n: Tensor, reference_margin_n: Tensor, beta: float | Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Return the sigmoid loss of quantile against quantile, shape [n]: AOT paired, arXiv:2406.05882.

    Position k holds β (u_(k) - v_(k)), u_(k) the k-th smallest log π(y_w) - log π(y_l) and v_(k) that of the
    reference: the policy's margins shall dominate the reference's as a distribution, not pair by pair.

    Args:
        policy_margin_n: log π(y_w|x) - log π(y_l|x) of every pair of the optimizer step.
        reference_margin_n: The same under the reference.
        beta: β.
        label_smoothing: ε, as in :func:`sigmoid`.
    """
    return sigmoid(_sorted(policy_margin_n) - _sorted(reference_margin_n), beta, label_smoothing)


def aot_unpaired(chosen_n: Tensor, rejected_n: Tensor, beta: float | Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the sigmoid loss of β (w_(k) - l_(k)), both sorted, shape [n]: AOT unpaired, arXiv:2406.05882.

    The arguments are the log-ratios w and l of every pair of the optimizer step; the rest is as in :func:`aot`.
    """
    return sigmoid(_sorted(chosen_n) - _sorted(rejected_n), beta, label_smoothing)


def _sorted(values_n: Tensor) -> Tensor:
    return torch.sort(values_n, stable=True).values


def accuracy(margin_n: Tensor, tie: float = 1e-4) -> Tensor:
    """Return 1 where the implicit reward prefers chosen, ½ on a tie, else 0; shape [n].

    β cancels. Margins within ``tie`` nats are rounding noise (policy = reference).
    """
    return torch.where(margin_n.abs() <= tie, 0.5, (margin_n > 0).float())


def alignment_weights(chosen_mean_n: Tensor, rejected_mean_n: Tensor) -> Tensor:
    """Return WPO's weight of each pair, min(1, e^(a_w + a_l)), shape [n], without gradient.

    Eq. 2 of arXiv:2406.11827 with its sampled alignment: pairs that the policy itself is likely to write
    count fully. a is a mean over the tokens t of one completion,

        a = 1/|y| Σ_t [ log π(y_t|x, y_<t) - log Σ_v π(v|x, y_<t)² ],

    under the policy as it is now, dropout and all, at temperature 1 and over the whole vocabulary v.
    The second term, -log Σ_v exp(2 log π(v)) by the same log-softmax that gives log π(y_t), makes
    confident and flat distributions comparable. The bound of 1 is that of the authors' code.

    Args:
        chosen_mean_n: a of each chosen completion, over all its tokens; LD-DPO's weights do not enter.
        rejected_mean_n: a of each rejected completion.
    """
    return torch.exp((chosen_mean_n + rejected_mean_n).detach().clamp(max=0))


def length_desensitised_weights(lengths_2n: Tensor, ld_alpha: float) -> Tensor:
    """Return LD-DPO's weight of every completion token, float64 [Σ lengths].

    Token t (from 0) of either completion has weight 1 if t < min(|y_w|, |y_l|), else α
    (arXiv:2409.06411). Multiply the per-token log-probabilities of policy *and* reference by it before summing.

    Args:
        lengths_2n: Completion tokens of chosen 0, rejected 0, chosen 1, …; shape [2n]. The result has this order.
        ld_alpha: α in [0, 1]; 1 is off, 0 leaves out what the longer answer has beyond the shorter.
    """
    ends_2n = lengths_2n.cumsum(0)
    shared_2n = lengths_2n.view(-1, 2).amin(dim=1).repeat_interleave(2)
    position_T = torch.arange(int(ends_2n[-1]) if len(ends_2n) else 0, device=lengths_2n.device)
    tail_from_T = (ends_2n - lengths_2n + shared_2n).repeat_interleave(lengths_2n)
    return torch.where(position_T < tail_from_T, 1.0, torch.full((), ld_alpha, dtype=torch.float64))
