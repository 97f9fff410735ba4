"""From logits to the next token of each row: repetition penalty, temperature, top-k, top-p, and the draw.

The order and the definitions are those of transformers' `generate`. A draw takes a uniform number a row and goes
through the kept tokens in the vocabulary's order (inverse transform sampling): it depends on the row's logits alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.dpo.generation.questions import Sampling

_FIRST_WIDTH = 64  # likeliest tokens that are looked at first; most rows reach top-p with them
_SECOND_WIDTH = 4096  # for rows that do not; then all tokens


def next_tokens(logits: Tensor, sampling: Sampling, uniforms: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Return a token a row, int64 [rows].

    Args:
        logits: Of the last position, [rows, vocabulary].
        sampling: How tokens are chosen.
        uniforms: A number in [0, 1) a row, float64 [rows]; not used at temperature 0.
        ids: All tokens of each row so far, padding included, int64 [rows, width].
        mask: 1 for a token and 0 for padding, [rows, width].
    """
    scores = logits.float()
    if sampling.repetition_penalty != 1.0:
        scores = _penalise(scores, ids, mask, sampling.repetition_penalty)
    if not sampling.temperature:
        return scores.argmax(dim=-1)
    return draw(scores / sampling.temperature, sampling.top_k, sampling.top_p, uniforms)


def draw(scores: Tensor, top_k: int | None, top_p: float, uniforms: Tensor) -> Tensor:
    """Draw a token a row from the softmax of ``scores``, restricted to the ``top_k`` likeliest, then to ``top_p``.

    Kept are the likeliest tokens before which less than ``top_p`` of the probability lies. They are found among the 64
    likeliest, among more where these have too little, and by a full sort at last: the result is that of the sort.

    Args:
        scores: Logits, [rows, vocabulary].
        top_k: Likeliest tokens that are kept first; None keeps all.
        top_p: In (0, 1]; 1 keeps all.
        uniforms: A number in [0, 1) a row, float64 [rows].
    """
    rows, vocabulary = scores.shape
    if top_k is None and top_p >= 1.0:
        return _inverse(torch.softmax(scores.double(), dim=-1), uniforms)

    width = min(top_k or _FIRST_WIDTH, vocabulary)
    total = scores.topk(width).values.double().logsumexp(-1) if top_k else scores.logsumexp(-1).double()
    tokens, left = torch.empty(rows, dtype=torch.long, device=scores.device), torch.arange(rows, device=scores.device)
    while len(left):
        part = scores if len(left) == rows else scores[left]
        likeliest, ids = part.topk(width) if width < vocabulary else part.sort(dim=-1, descending=True)
        shares = (likeliest.double() - total[left, None]).exp()
        before = shares.cumsum(dim=-1) - shares
        kept = torch.where(before < top_p, shares, 0.0)
        if width == vocabulary:  # back into the vocabulary's order
            tokens[left] = _inverse(torch.zeros_like(kept).scatter_(1, ids, kept), uniforms[left])
            break

        is_enough = before[:, -1] >= top_p if top_k is None else torch.ones_like(left, dtype=torch.bool)
        drawn, (ids, order) = left[is_enough], ids[is_enough].sort(dim=-1)
        tokens[drawn] = ids.gather(1, _inverse(kept[is_enough].gather(1, order), uniforms[drawn])[:, None]).squeeze(1)
        left, width = left[~is_enough], vocabulary if width >= _SECOND_WIDTH else min(_SECOND_WIDTH, vocabulary)
    return tokens


def _inverse(shares: Tensor, uniforms: Tensor) -> Tensor:
    """Return the place in each row where the running sum of ``shares`` passes the row's uniform share of its total."""
    cumulative = shares.cumsum(dim=-1)
    level = uniforms.to(shares.device) * cumulative[:, -1]
    place = torch.searchsorted(cumulative, level[:, None], right=True)
    return place.clamp_(max=shares.shape[1] - 1).squeeze(1)


def _penalise(scores: Tensor, ids: Tensor, mask: Tensor, penalty: float) -> Tensor:
    """Divide the positive scores of tokens that stand in the row by ``penalty``, and multiply the negative ones by it.

    That is transformers' definition, the prompt's tokens included; padding is not in the row.
    """
    counts = torch.zeros_like(scores, dtype=torch.int32).scatter_add_(1, ids, mask.to(torch.int32))
    return torch.where(counts > 0, torch.where(scores < 0, scores * penalty, scores / penalty), scores)
