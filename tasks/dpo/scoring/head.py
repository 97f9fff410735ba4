"""Log-probabilities of tokens from hidden states: in chunks, never [tokens, vocabulary] at once.

With a frozen head, the gradient of log p(token) with respect to its hidden state depends on the loss only by a factor:
it is that factor times W[token] - p W. So it is computed in forward, where p is available, and only scaled in
backward: two matrix products with the vocabulary instead of three, exact, and one saved tensor, [N, H]. A trainable or
adapted head takes the general path, which computes each chunk's logits again in backward.

Shape suffixes: N tokens to score, H hidden size, V vocabulary, C tokens of a chunk.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tasks.dpo.model.cpu_bfloat16 import as_factor, product_for_gradients, product_in_float32

# The largest tensor here is a tile of float32 logits. On a CPU a tile fits in the last cache level, so that the passes
# over it do not wait for memory, and has enough tokens for products near the machine's peak. Its number of words does
# not depend on the number of tokens, so a token's sums have the same order in every batch.
_CPU_TILE = 1024, 8192
_CUDA_TILE_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class TokenScores:
    """What the head computes of N tokens.

    Attributes:
        logp_N: log π(token), float32.
        collision_N: log Σ_v π(v)², float32, without gradient; None unless asked for.
    """

    logp_N: Tensor
    collision_N: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class LogitShape:
    """What a model does to its logits after the head: z ← times · z / over, then z ← cap · tanh(z / cap)."""

    times: float = 1.0
    over: float = 1.0
    cap: float = 0.0

    @classmethod
    def of(cls, config: Any) -> LogitShape:
        """Return the shape in a model's config: Cohere multiplies, Granite divides, Gemma 2 and RecurrentGemma cap."""
        names = ("logit_scale", "logits_scaling", "final_logit_softcapping", "logits_soft_cap")
        times, over, *caps = (float(getattr(config, name, None) or 0.0) for name in names)
        return cls(times or 1.0, over or 1.0, max(caps))

    def apply(self, logits: Tensor) -> Tensor:
        """Return the logits as the model itself changes them."""
        if self.times != 1.0:
            logits = logits * self.times
        if self.over != 1.0:
            logits = logits / self.over
        return self.cap * torch.tanh(logits / self.cap) if self.cap else logits


def tile_of(tokens: int, vocabulary: int, device: torch.device) -> tuple[int, int]:
    """Return a tile's tokens and words of the vocabulary: on a CPU a part of it, on a GPU all of it."""
    if device.type == "cpu":
        return max(1, min(tokens, _CPU_TILE[0])), -(-vocabulary // -(-vocabulary // _CPU_TILE[1]))
    return max(1, min(tokens, max(16, _CUDA_TILE_BYTES // (4 * vocabulary)))), vocabulary


class FrozenHead:
    """A head without trainable parameters: two matrix products a token, forward and backward together.

    Args:
        weight_VH: The head's weight.
        bias_V: Its bias, if it has one.
        shape: What happens to its logits.
        tile: Tokens and words at once; the default depends on the device.
        products: The type of products that need not be as exact as logits; by default the weight's.
    """

    def __init__(
        self,
        weight_VH: Tensor,
        bias_V: Tensor | None = None,
        shape: LogitShape | None = None,
        tile: tuple[int, int] | None = None,
        products: torch.dtype | None = None,
    ) -> None:
        self.weight_VH, self.bias_V, self.shape, self.tile = weight_VH, bias_V, shape or LogitShape(), tile
        self.products = products or weight_VH.dtype

    def score(self, hidden_NH: Tensor, label_N: Tensor, with_collision: bool = False) -> TokenScores:
        """Score tokens; differentiable with respect to ``hidden_NH``."""
        needs_grad = torch.is_grad_enabled() and hidden_NH.requires_grad
        apply: Any = _TwoProducts.apply
        logp_N, collision_N = apply(hidden_NH, label_N, self, needs_grad, with_collision)
        return TokenScores(logp_N, collision_N)

    def logits(self, hidden_CH: Tensor, words: slice, space: Tensor) -> Tensor:
        """Return the logits of a tile, float32 [C, W]; they may lie in ``space``."""
        weight_WH = self.weight_VH[words]
        if hidden_CH.dtype == torch.float32:
            size = len(hidden_CH) * len(weight_WH)
            logits_CW = torch.mm(hidden_CH, weight_WH.t(), out=space[:size].view(len(hidden_CH), len(weight_WH)))
        else:
            logits_CW = product_in_float32(hidden_CH, weight_WH.t())
        if self.bias_V is not None:
            logits_CW.add_(self.bias_V[words])
        return self.shape.apply(logits_CW)


class _RunningSums:
    """Sums over the words of the vocabulary so far, for C tokens (online softmax, arXiv:1805.02867).

    They are of e = exp(z - largest logit so far), and are scaled down when a larger logit comes.

    Attributes (W words of a tile):
        top_C1: The largest logit so far.
        total_C1: Σ e.
        picked_C1: The label's logit.
        pull_CH: Σ e W, each word's part times the slope of the soft cap.
        square_C1: Σ e².
    """

    def __init__(
        self, head: FrozenHead, hidden_CH: Tensor, label_C: Tensor, needs_slope: bool, with_collision: bool
    ) -> None:
        self._head, self._label_C1 = head, label_C[:, None]
        column = torch.zeros(len(hidden_CH), 1, dtype=torch.float32, device=hidden_CH.device)
        self.top_C1, self.total_C1, self.picked_C1 = column - float("inf"), column, column.clone()
        self.square_C1: Any = column.clone() if with_collision else None
        self.pull_CH: Any = None
        self._needs_slope, self._type = needs_slope, hidden_CH.dtype

    def add(self, logits_CW: Tensor, words: slice) -> None:
        """Add a tile, whose memory is overwritten."""
        cap = self._head.shape.cap

        # the label's logit, for the tokens whose label is in this tile
        inside = self._label_C1 - words.start
        is_here = (inside >= 0) & (inside < logits_CW.shape[1])
        picked_C1 = logits_CW.gather(-1, inside.clamp(0, logits_CW.shape[1] - 1))
        self.picked_C1 = torch.where(is_here, picked_C1, self.picked_C1)
        slope_of_cap_CW = 1 - (logits_CW / cap).square_() if cap and self._needs_slope else None

        # a larger logit than any so far: the sums are of exp(z - largest), so they shrink
        top_C1 = torch.maximum(logits_CW.amax(-1, keepdim=True), self.top_C1)
        shrink_C1 = (self.top_C1 - top_C1).exp_()
        self.top_C1 = top_C1

        e_CW = logits_CW.sub_(top_C1).exp_()
        self.total_C1 = self.total_C1 * shrink_C1 + e_CW.sum(-1, keepdim=True)
        if self.square_C1 is not None:
            self.square_C1 = self.square_C1 * shrink_C1.square() + e_CW.square().sum(-1, keepdim=True)
        if self.pull_CH is not None:
            self.pull_CH *= shrink_C1
        if self._needs_slope:
            self._pull(e_CW if slope_of_cap_CW is None else e_CW.mul_(slope_of_cap_CW), self._head.weight_VH[words])

    def _pull(self, e_CW: Tensor, weight_WH: Tensor) -> None:
        dtype = self._head.products
        if self.pull_CH is not None and dtype == torch.float32:
            self.pull_CH.addmm_(e_CW, weight_WH)
            return
        pull_CH = product_for_gradients(as_factor(e_CW, dtype), weight_WH.to(dtype))[: len(e_CW)]
        self.pull_CH = pull_CH if self.pull_CH is None else self.pull_CH.add_(pull_CH)

    def log_probability(self) -> Tensor:
        """Return log p(label), [C]."""
        return (self.picked_C1 - self.top_C1 - self.total_C1.log()).squeeze(-1)

    def slope(self) -> Tensor:
        """Return d log p(label) / d hidden, [C, H], in the type of the hidden states."""
        shape = self._head.shape
        label_CH = self._head.weight_VH[self._label_C1.squeeze(-1)].float()
        if shape.cap:
            label_CH *= 1 - (self.picked_C1 / shape.cap).square()
        slope_CH: Tensor = self.pull_CH.div_(self.total_C1).neg_().add_(label_CH)
        scale = shape.times / shape.over
        return (slope_CH.mul_(scale) if scale != 1.0 else slope_CH).to(self._type)

    def log_collision(self) -> Tensor:
        """Return log Σ p², [C]."""
        collision_C: Tensor = (self.square_C1 / self.total_C1.square()).log().squeeze(-1)
        return collision_C


class _TwoProducts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, label_N: Tensor, head: FrozenHead, needs_grad: bool, with_collision: bool
    ) -> tuple[Tensor, Tensor | None]:
        logp_N = torch.empty(len(hidden_NH), dtype=torch.float32, device=hidden_NH.device)
        collision_N = torch.empty_like(logp_N) if with_collision else None
        slope_NH = torch.empty_like(hidden_NH) if needs_grad else None
        tokens, words = head.tile or tile_of(len(hidden_NH), len(head.weight_VH), hidden_NH.device)
        size = min(tokens, len(hidden_NH)) * words if hidden_NH.dtype == torch.float32 else 0
        space = torch.empty(size, dtype=torch.float32, device=hidden_NH.device)

        for start in range(0, len(hidden_NH), tokens):
            part = slice(start, start + tokens)
            sums = _RunningSums(head, hidden_NH[part], label_N[part], needs_grad, with_collision)
            for first in range(0, len(head.weight_VH), words):
                tile = slice(first, first + words)
                sums.add(head.logits(hidden_NH[part], tile, space), tile)

            logp_N[part] = sums.log_probability()
            if slope_NH is not None:
                slope_NH[part] = sums.slope()
            if collision_N is not None:
                collision_N[part] = sums.log_collision()

        ctx.save_for_backward(slope_NH)
        if collision_N is not None:
            ctx.mark_non_differentiable(collision_N)
        return logp_N, collision_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slope_NH,) = ctx.saved_tensors
        return (grads[0][:, None] * slope_NH).to(slope_NH.dtype), None, None, None, None


class GeneralHead:
    """Any head, with or without adapters: backward computes each chunk's logits again.

    Args:
        module: The output embedding: hidden [C, H] to logits [C, V].
        shape: What happens to its logits.
        chunk: Tokens at once.
    """

    def __init__(self, module: torch.nn.Module, shape: LogitShape | None = None, chunk: int = 256) -> None:
        self.module, self.shape, self.chunk = module, shape or LogitShape(), chunk

    def score(self, hidden_NH: Tensor, label_N: Tensor, with_collision: bool = False) -> TokenScores:
        """Score tokens; differentiable with respect to ``hidden_NH`` and the head's parameters."""
        chunks = zip(torch.split(hidden_NH, self.chunk), torch.split(label_N, self.chunk), strict=True)
        score: Any = self._score
        if torch.is_grad_enabled():
            score = functools.partial(checkpoint, self._score, use_reentrant=False)
        parts = [score(hidden_CH, label_C, with_collision) for hidden_CH, label_C in chunks]
        logp_N = torch.cat([part.logp_N for part in parts])
        return TokenScores(logp_N, torch.cat([part.collision_N for part in parts]) if with_collision else None)

    def _score(self, hidden_CH: Tensor, label_C: Tensor, with_collision: bool) -> TokenScores:
        return scores_of(self.shape.apply(self.module(hidden_CH).float()), label_C, with_collision)


def scores_of(logits_NV: Tensor, label_N: Tensor, with_collision: bool) -> TokenScores:
    """Score tokens by their logits."""
    logits_NV = logits_NV.float()
    logp_N = torch.log_softmax(logits_NV, -1).gather(-1, label_N[:, None]).squeeze(-1)
    collision_N = torch.softmax(logits_NV.detach(), -1).square().sum(-1).log() if with_collision else None
    return TokenScores(logp_N, collision_N)
