"""Log-probabilities of tokens from hidden states: in chunks, never [tokens, vocabulary] at once.

With a frozen head the gradient of log p(token) with respect to its hidden state does not depend on the
loss: it is W[token] - p W up to the loss's own factor. So it is computed with the forward, where p is at
hand, and only scaled in backward: two matrix products with the vocabulary instead of three, exact, and
one [N, H] tensor is all that is kept. A trainable or adapted head takes the general path, which computes
each chunk's logits again in backward.

Shape suffixes: N tokens to score, H hidden size, V vocabulary, C tokens of a chunk.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Of one chunk's float32 logits, the largest tensor here: on a CPU what the last cache level holds, so that the passes
# over it do not wait for memory.
CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 2**30}


@dataclasses.dataclass(frozen=True)
class TokenScores:
    """What the head says of N tokens.

    Attributes:
        logp_N: log π(token), float32.
        collision_N: log Σ_v π(v)², float32, without gradient; None unless asked for.
    """

    logp_N: Tensor
    collision_N: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class LogitShape:
    """What a model does to its logits behind the head: z ← times · z / over, then z ← cap · tanh(z / cap)."""

    times: float = 1.0
    over: float = 1.0
    cap: float = 0.0

    @classmethod
    def of(cls, config: Any) -> LogitShape:
        """Read it from a model's config: Cohere multiplies, Granite divides, Gemma 2 and RecurrentGemma cap."""
        names = ("logit_scale", "logits_scaling", "final_logit_softcapping", "logits_soft_cap")
        times, over, *caps = (float(getattr(config, name, None) or 0.0) for name in names)
        return cls(times or 1.0, over or 1.0, max(caps))

    @property
    def scale(self) -> float:
        """The factor times / over."""
        return self.times / self.over

    def apply(self, logits: Tensor) -> Tensor:
        """Return the logits as the model itself would."""
        if self.times != 1.0:
            logits = logits * self.times
        if self.over != 1.0:
            logits = logits / self.over
        return self.cap * torch.tanh(logits / self.cap) if self.cap else logits


def chunk_of(vocabulary: int, device: torch.device) -> int:
    """Return how many tokens meet a head of so many rows at once."""
    return max(16, CHUNK_BYTES.get(device.type, CHUNK_BYTES["cuda"]) // (4 * vocabulary))


class FrozenHead:
    """A head without trainable parameters: two matrix products a token, forward and backward together.

    Args:
        weight_VH: The head's weight.
        bias_V: Its bias, if it has one.
        shape: What happens to its logits.
        chunk: Tokens at once; by default what suits the device.
    """

    def __init__(
        self, weight_VH: Tensor, bias_V: Tensor | None = None, shape: LogitShape | None = None, chunk: int | None = None
    ) -> None:
        self.weight_VH, self.bias_V, self.shape = weight_VH, bias_V, shape or LogitShape()
        self.chunk = chunk or chunk_of(len(weight_VH), weight_VH.device)

    def score(self, hidden_NH: Tensor, label_N: Tensor, with_collision: bool = False) -> TokenScores:
        """Score tokens; differentiable with respect to ``hidden_NH``."""
        needs_grad = torch.is_grad_enabled() and hidden_NH.requires_grad
        apply: Any = _TwoProducts.apply
        logp_N, collision_N = apply(hidden_NH, label_N, self, needs_grad, with_collision)
        return TokenScores(logp_N, collision_N)

    def logits(self, hidden_CH: Tensor, space_CV: Tensor) -> Tensor:
        """Return a chunk's logits, float32 [C, V]; they may lie in ``space_CV``."""
        if hidden_CH.dtype == torch.float32:
            logits_CV = torch.mm(hidden_CH, self.weight_VH.t(), out=space_CV[: len(hidden_CH)])
        else:
            logits_CV = product_in_float32(hidden_CH, self.weight_VH.t())
        if self.bias_V is not None:
            logits_CV.add_(self.bias_V)
        return self.shape.apply(logits_CV)

    @torch.no_grad()
    def score_chunk(
        self, hidden_CH: Tensor, label_C: Tensor, space_CV: Tensor, needs_slope: bool, with_collision: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return log p(label) [C], d log p(label) / d hidden [C, H] and log Σ p² [C]; the latter two where asked for.

        One pass makes e = exp(z - max z); what remains is divided by Σ e only where it is small again.
        """
        logits_CV, label_C1 = self.logits(hidden_CH, space_CV), label_C[:, None]
        slope_of_cap_CV = None
        if needs_slope and self.shape.cap:
            slope_of_cap_CV = 1 - (logits_CV / self.shape.cap).square_()
        picked_C1, top_C1 = logits_CV.gather(-1, label_C1), logits_CV.amax(-1, keepdim=True)
        e_CV = logits_CV.sub_(top_C1).exp_()
        total_C1 = e_CV.sum(-1, keepdim=True)
        logp_C = (picked_C1 - top_C1 - total_C1.log()).squeeze(-1)
        collision_C = None
        if with_collision:
            collision_C = (e_CV.square().sum(-1, keepdim=True) / total_C1.square()).log().squeeze(-1)
        if not needs_slope:
            return logp_C, None, collision_C
        own_CH = self.weight_VH[label_C]
        if slope_of_cap_CV is not None:
            e_CV.mul_(slope_of_cap_CV)
            own_CH = own_CH * slope_of_cap_CV.gather(-1, label_C1).to(own_CH.dtype)
        slope_CH = own_CH - (e_CV.to(self.weight_VH.dtype) @ self.weight_VH) / total_C1.to(self.weight_VH.dtype)
        return logp_C, slope_CH.mul_(self.shape.scale) if self.shape.scale != 1.0 else slope_CH, collision_C


class _TwoProducts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, label_N: Tensor, head: FrozenHead, needs_grad: bool, with_collision: bool
    ) -> tuple[Tensor, Tensor | None]:
        logp_N = torch.empty(len(hidden_NH), dtype=torch.float32, device=hidden_NH.device)
        collision_N = torch.empty_like(logp_N) if with_collision else None
        slope_NH = torch.empty_like(hidden_NH) if needs_grad else None
        rows = min(head.chunk, len(hidden_NH)) if hidden_NH.dtype == torch.float32 else 0
        space_CV = torch.empty(rows, len(head.weight_VH), dtype=torch.float32, device=hidden_NH.device)
        for start in range(0, len(hidden_NH), head.chunk):
            part = slice(start, start + head.chunk)
            logp_C, slope_CH, collision_C = head.score_chunk(
                hidden_NH[part], label_N[part], space_CV, needs_grad, with_collision
            )
            logp_N[part] = logp_C
            if slope_NH is not None and slope_CH is not None:
                slope_NH[part] = slope_CH
            if collision_N is not None and collision_C is not None:
                collision_N[part] = collision_C
        ctx.save_for_backward(slope_NH)
        if collision_N is not None:
            ctx.mark_non_differentiable(collision_N)
        return logp_N, collision_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slope_NH,) = ctx.saved_tensors
        return (grads[0][:, None] * slope_NH).to(slope_NH.dtype), None, None, None, None


class GeneralHead:
    """Any head, adapters on it included: each chunk's logits are computed again in backward.

    Args:
        module: The output embedding: hidden [C, H] to logits [C, V].
        shape: What happens to its logits.
        chunk: Tokens at once.
    """

    def __init__(self, module: torch.nn.Module, shape: LogitShape | None = None, chunk: int = 256) -> None:
        self.module, self.shape, self.chunk = module, shape or LogitShape(), chunk

    def score(self, hidden_NH: Tensor, label_N: Tensor, with_collision: bool = False) -> TokenScores:
        """Score tokens; differentiable with respect to ``hidden_NH`` and the head's own parameters."""
        parts = []
        for hidden_CH, label_C in zip(
            torch.split(hidden_NH, self.chunk), torch.split(label_N, self.chunk), strict=True
        ):
            if torch.is_grad_enabled():
                parts.append(checkpoint(self._score, hidden_CH, label_C, with_collision, use_reentrant=False))
            else:
                parts.append(self._score(hidden_CH, label_C, with_collision))
        logp_N = torch.cat([logp for logp, _ in parts])
        return TokenScores(logp_N, torch.cat([c for _, c in parts]) if with_collision else None)

    def _score(self, hidden_CH: Tensor, label_C: Tensor, with_collision: bool) -> tuple[Tensor, Tensor | None]:
        logits_CV = self.shape.apply(self.module(hidden_CH).float())
        return log_softmax_of(logits_CV, label_C), collision_of(logits_CV) if with_collision else None


def log_softmax_of(logits_NV: Tensor, label_N: Tensor) -> Tensor:
    """Return log softmax(logits)[label], [N], float32."""
    return torch.log_softmax(logits_NV.float(), -1).gather(-1, label_N[:, None]).squeeze(-1)


def collision_of(logits_NV: Tensor) -> Tensor:
    """Return log Σ_v π(v)², [N], float32, without gradient."""
    return torch.softmax(logits_NV.detach().float(), -1).square().sum(-1).log()


def product_in_float32(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right in float32, accumulated and kept so, whatever the factors' type."""
    if left.dtype == torch.float32:
        return left @ right
    if left.device.type == "cuda":
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()
