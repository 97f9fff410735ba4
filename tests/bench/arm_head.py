"""One way to get log-probabilities from hidden states, timed in a process of its own; ours or a peer's."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import torch
from torch import Tensor

from tests.bench.job import serve
from tests.bench.measure import forget_peak, peak_bytes, synchronise, versions

SECONDS = 10.0  # of repeated calls, three at least
SAMPLE = 64  # log-probabilities, and entries of the gradient, that are compared between the ways

Way = Callable[[Tensor, Tensor, Tensor], Tensor]  # hidden [N, H], weight [V, H], labels [N] -> log-probabilities [N]


@dataclasses.dataclass(frozen=True)
class HeadJob:
    """Which way, where, and how many tokens, hidden size and vocabulary."""

    arm: str
    device: str
    threads: int
    tokens: int
    hidden: int
    vocabulary: int


@dataclasses.dataclass
class HeadOutcome:
    """Best seconds of forward and backward, memory before and at most, and some of the values."""

    seconds: float
    peak_bytes: int
    start_bytes: int
    sample: list[float]
    versions: dict[str, str]


def plain(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """All logits at once, float32 log-softmax."""
    return torch.log_softmax((hidden @ weight.t()).float(), dim=-1).gather(-1, labels[:, None]).squeeze(-1)


def chunked(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Ours for any head: a chunk at a time, its logits computed again in backward."""
    from tasks.dpo.scoring.head import GeneralHead

    module = torch.nn.Linear(*weight.t().shape, bias=False, device="meta")
    module.weight = torch.nn.Parameter(weight, requires_grad=False)
    return GeneralHead(module).score(hidden, labels).logp_N


def two_product(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Ours for a frozen head: the gradient with respect to the hidden state is made with the forward."""
    from tasks.dpo.scoring.head import FrozenHead

    return FrozenHead(weight).score(hidden, labels).logp_N


def trl_head(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """TRL's, with the outputs that its DPO trainer asks for."""
    from trl.trainer import utils

    outputs = ("log_probs", "entropy", "mean_logits", "is_top1")
    chunk = utils._CHUNKED_LOGPROB_CHUNK_SIZE
    found = utils._ChunkedLogProbFunction.apply(hidden, weight, None, labels, 1.0, chunk, None, 1.0, outputs)
    log_probs: Tensor = found[0]
    return log_probs


def agilerl_head(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """AgileRL's, with the chunk that it chooses."""
    import agilerl

    agilerl.HAS_LIGER_KERNEL, agilerl.HAS_LLM_DEPENDENCIES = False, True
    from agilerl.algorithms.core.base import LLMAlgorithm

    found: Tensor = LLMAlgorithm._logprobs_from_hidden_fused_grad(hidden[None], weight, None, labels[None])
    return found[0]


WAYS: dict[str, Way] = {
    "plain": plain,
    "chunked": chunked,
    "two_product": two_product,
    "trl_head": trl_head,
    "agilerl_head": agilerl_head,
}


def main(job: HeadJob) -> HeadOutcome:
    """Time forward and backward, best of several."""
    if job.threads:
        torch.set_num_threads(job.threads)
    dtype = torch.bfloat16 if job.device == "cuda" else torch.float32
    torch.manual_seed(0)
    hidden = torch.randn(job.tokens, job.hidden).to(job.device, dtype).requires_grad_()
    weight = (torch.randn(job.vocabulary, job.hidden) * 0.02).to(job.device, dtype)
    labels = torch.randint(job.vocabulary, (job.tokens,)).to(job.device)
    upstream = torch.randn(job.tokens).to(job.device)
    way = WAYS[job.arm]
    few = way(hidden[:4], weight, labels[:4])  # loads what is loaded at the first call
    torch.autograd.backward(few.sum())
    forget_peak(job.device)
    start, times, found = peak_bytes(job.device), [], few
    while len(times) < 3 or sum(times) < SECONDS:
        hidden.grad = None
        synchronise(job.device)
        began = time.perf_counter()
        found = way(hidden, weight, labels)
        torch.autograd.backward(found, upstream.to(found.dtype))
        synchronise(job.device)
        times.append(time.perf_counter() - began)
    gradient = hidden.grad
    if gradient is None:
        raise ValueError(f"`{job.arm}` gave no gradient")
    sample = torch.cat([found[:SAMPLE].detach(), gradient.reshape(-1)[:SAMPLE]]).double().tolist()
    return HeadOutcome(min(times), peak_bytes(job.device), start, sample, versions())


if __name__ == "__main__":
    serve(HeadJob, main)
