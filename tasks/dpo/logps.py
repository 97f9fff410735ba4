"""Log-probabilities of completion tokens, without holding the logits of a whole batch.

Shape suffixes: B sequences, L tokens of the longest, T completion tokens of the batch, H hidden size,
V vocabulary.

Sequences are padded on the right and need no attention mask: a causal model's token never sees what
stands behind it. Only the hidden states that predict a completion token meet the language-model
head, in chunks, and the log-softmax is float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tasks.core import log
from tasks.core.errors import DataError
from tasks.dpo.modes import evaluation_mode
from tasks.pairs.cache import TokenRow

CHUNK = 2048  # completion tokens that meet the head at once: [CHUNK, V] is the largest tensor
_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Pairs laid out as padded sequences: the chosen of pair i is sequence 2i, the rejected 2i + 1.

    Attributes:
        ids_BL: Token ids, zero behind each sequence's end.
        sequence_T: Sequence of each completion token, ascending.
        position_T: Position of the token that predicts it.
        label_T: The completion token itself.
        pairs: Number of pairs, B / 2.
    """

    ids_BL: Tensor
    sequence_T: Tensor
    position_T: Tensor
    label_T: Tensor
    pairs: int

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on ``device``."""
        tensors = (self.ids_BL, self.sequence_T, self.position_T, self.label_T)
        ids, sequence, position, label = (tensor.to(device, non_blocking=True) for tensor in tensors)
        return Batch(ids, sequence, position, label, self.pairs)


def lay_out(rows: Sequence[TokenRow]) -> Batch:
    """Lay pairs out for one forward. Token order in ``T``: pair by pair, chosen before rejected.

    Raises:
        DataError: A prompt, chosen or rejected has no tokens, so there is nothing to score or to score it from.
    """
    if not all(len(part) for row in rows for part in (row.prompt, row.chosen, row.rejected)):
        raise DataError("a pair has an empty prompt, chosen or rejected", "drop it before training")
    branches = [(row.prompt, completion) for row in rows for completion in (row.chosen, row.rejected)]
    width = max(len(prompt) + len(completion) for prompt, completion in branches)
    ids: npt.NDArray[np.int64] = np.zeros((len(branches), width), dtype=np.int64)
    for i, (prompt, completion) in enumerate(branches):
        ids[i, : len(prompt)] = prompt
        ids[i, len(prompt) : len(prompt) + len(completion)] = completion
    sequence = np.repeat(np.arange(len(branches)), [len(completion) for _, completion in branches])
    position = np.concatenate([np.arange(len(c)) + len(p) - 1 for p, c in branches])
    label = np.concatenate([completion for _, completion in branches]).astype(np.int64)
    arrays = (torch.from_numpy(array) for array in (ids, sequence, position, label))
    ids_BL, sequence_T, position_T, label_T = arrays
    return Batch(ids_BL, sequence_T, position_T, label_T, len(rows))


class Scorer:
    """Log-probabilities of completion tokens under one model, with or without its adapters.

    At start it checks on a few tokens that `body -> head` gives the logits of the whole model. Some
    families scale or cap their logits behind the head; those are scored through the whole model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._body = getattr(inner, inner.base_model_prefix)
        self._head = inner.get_output_embeddings()
        self.is_split = self._head_is_plain()
        if not self.is_split:
            _log.info("this model changes its logits behind the head: scoring through the whole model, in more memory")

    def logps(self, batch: Batch) -> Tensor:
        """Return log π(token | what stands before it), shape [T], float32.

        Differentiable with respect to the adapters, when gradients are on.
        """
        if not self.is_split:
            logits_BLV = self.model(input_ids=batch.ids_BL, use_cache=False).logits
            return pick(logits_BLV[batch.sequence_T, batch.position_T], batch.label_T)
        hidden_BLH = self._body(input_ids=batch.ids_BL, use_cache=False).last_hidden_state
        hidden_TH = hidden_BLH[batch.sequence_T, batch.position_T]
        chunks = zip(torch.split(hidden_TH, CHUNK), torch.split(batch.label_T, CHUNK), strict=True)
        return torch.cat([pick(self._head(hidden), label) for hidden, label in chunks])

    @torch.no_grad()
    def _head_is_plain(self) -> bool:
        """Compare bit for bit: a soft cap hardly moves small logits, such as those of a fresh model."""
        ids = torch.arange(8, device=next(self.model.parameters()).device)[None]
        with evaluation_mode(self.model):
            whole = self.model(input_ids=ids, use_cache=False).logits
            split = self._head(self._body(input_ids=ids, use_cache=False).last_hidden_state)
        return torch.equal(whole.float(), split.float())


def pick(logits_TV: Tensor, label_T: Tensor) -> Tensor:
    """Return log softmax(logits)[label], shape [T], computed in float32."""
    return torch.log_softmax(logits_TV.float(), dim=-1).gather(-1, label_T[:, None]).squeeze(-1)


def sum_by_branch(logps_T: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Sum token log-probabilities over each completion: (chosen, rejected), each [pairs], float64.

    A float32 sum over a thousand tokens is off by more than the log-ratios that it is there to tell.
    """
    sums = torch.zeros(2 * batch.pairs, dtype=torch.float64, device=logps_T.device)
    sums = sums.index_add(0, batch.sequence_T, logps_T.double())
    return sums[0::2], sums[1::2]
