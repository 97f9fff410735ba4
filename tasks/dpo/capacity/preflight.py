"""Before the first step: whether it fits into memory, how many tokens at once, what backward recomputes, how long it
will take.

Rounding depends on the cut into micro-batches, so a little more free memory must not change the last digits of a
training. Therefore the tokens at once are a power of two or 1.5 times one, and on a CPU the same constant wherever
it fits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator

from tasks.core.errors import ConfigError
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.capacity.flops import ModelShape, matmul_rate
from tasks.dpo.capacity.memory import MemoryModel, Recompute, free_bytes, in_words
from tasks.dpo.capacity.workload import Workload
from tasks.dpo.model.anatomy import bare_model
from tasks.dpo.model.cpu_bfloat16 import product_type
from tasks.dpo.scoring.head import tile_of
from tasks.dpo.scoring.scorer import Scorer
from tasks.pairs.tokens.token_cache import TokenRow
from tasks.telemetry import log

# Tokens at once for `auto`. A CPU's matrix products reach full speed at a few hundred rows and become slower where
# activations outgrow the caches: hidden size 512 on one thread takes 1.32, 1.41, 1.37, 1.67 and 1.83 ms a token at
# 256, 512, 2,048, 4,096 and 8,192 tokens; 768 leave memory to other programs.
CPU_TOKENS = 768
CUDA_TOKENS = 65536
# With fewer tokens at once than this, recomputing costs less than half of the machine being idle.
ENOUGH_TOKENS = {"cpu": 512, "cuda": 2048}
USED_SHARE = 0.85  # of free memory: the rest is for what the formula leaves out and for fragmentation
ASSUMED_UTILISATION = 0.4
_PROBES = (256, 1024)  # packed tokens
_IN_WORDS = {Recompute.NONE: "nothing", Recompute.SELECTIVE: "what is cheap", Recompute.FULL: "every layer"}

_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What fits into this machine's memory.

    Attributes:
        tokens: Packed tokens of a micro-batch.
        recompute: What backward recomputes.
        need_bytes: Bytes that the largest micro-batch needs beside the weights.
        free_bytes: Bytes that were free before.
    """

    tokens: int
    recompute: Recompute
    need_bytes: int
    free_bytes: int


def preflight(
    scorer: Scorer,
    workload: Workload,
    runtime: RuntimeConfig,
    accelerator: Accelerator,
    levels: tuple[Recompute, ...] = (Recompute.NONE, Recompute.FULL),
) -> Choice:
    """Estimate, choose, and log the choice in two lines; every rank chooses the same.

    On CUDA the bytes of a token are measured, by the scorer's forward and backward at two small sizes; on a CPU,
    where a process's resident pages say too little, they are the formula's.

    Args:
        scorer: Of the model, on its device, in the layout that will be used, with nothing recomputed yet.
        workload: The pairs and steps.
        runtime: The user's settings.
        accelerator: This process's device and ranks.
        levels: What the trainer can recompute, the least first.

    Raises:
        ConfigError: Not even the longest pair fits.
    """
    # the formula's estimate
    device, shape = accelerator.device, ModelShape.of(scorer.model)
    tokens, words = tile_of(workload.longest_step, shape.vocabulary, device)
    memory = MemoryModel.of(
        scorer.model, shape, compute_type(scorer.model), tokens * words, workload.trains, scorer.head is None
    )

    # a measured one in its place, and the tightest of all ranks
    per_token = memory.per_token[Recompute.NONE]
    if device.type == "cuda":
        with contextlib.suppress(torch.OutOfMemoryError):  # then the formula has to do
            per_token = measured_bytes_per_token(lambda tokens: _try(scorer, tokens, workload.trains), device)
        torch.cuda.empty_cache()  # only here, outside of the handler, is a failed trial's memory free
    least_free, largest = _agreed(accelerator, free_bytes(device), per_token)
    memory = memory.measured(largest)

    choice = choose(
        memory,
        least_free,
        workload.longest_pair,
        wanted_tokens=runtime.tokens_per_micro_batch,
        levels=allowed(runtime.gradient_checkpointing, levels) if workload.trains else (Recompute.NONE,),
        device_type=device.type,
        most_tokens=workload.longest_step,
    )
    rate = matmul_rate(device, product_type(scorer.model)) * accelerator.num_processes
    _log_choice(memory, choice, workload.flops(shape), rate, accelerator.num_processes)
    return choice


def compute_type(model: Any) -> torch.dtype:
    """Return the type of a model's activations: that of its weights, bfloat16 where those are quantised."""
    dtype: torch.dtype = bare_model(model).get_input_embeddings().weight.dtype
    return dtype if dtype.is_floating_point else torch.bfloat16


def allowed(wanted: bool | Literal["auto"], levels: tuple[Recompute, ...]) -> tuple[Recompute, ...]:
    """Return the levels that ``runtime.gradient_checkpointing`` leaves to choose from."""
    if wanted == "auto":
        return levels
    return (Recompute.FULL,) if wanted else (Recompute.NONE,)


def choose(
    memory: MemoryModel,
    free: int,
    longest_pair: int,
    wanted_tokens: int | Literal["auto"] = "auto",
    levels: tuple[Recompute, ...] = tuple(Recompute),
    device_type: str = "cpu",
    most_tokens: int = CUDA_TOKENS,
) -> Choice:
    """Return the level that recomputes least and fits enough tokens, and how many at once; a pure function.

    Args:
        memory: What a micro-batch needs.
        free: Free bytes.
        longest_pair: Packed tokens of the longest pair, which has to fit alone.
        wanted_tokens: The user's number, which is kept, or `auto`.
        levels: What may be recomputed, the least first.
        device_type: `cpu` or `cuda`.
        most_tokens: Packed tokens of the longest step; no micro-batch has more.

    Raises:
        ConfigError: The longest pair does not fit at the last level.
    """
    usable = USED_SHARE * free
    enough = min(ENOUGH_TOKENS.get(device_type, 512) if wanted_tokens == "auto" else wanted_tokens, most_tokens)
    fitting = [(level, memory.fitting(usable, level)) for level in levels]
    level, fits = next((each for each in fitting if each[1] >= max(enough, longest_pair)), fitting[-1])
    if memory.need(longest_pair, level) > free:
        raise _too_long(memory, free, longest_pair, level)

    if wanted_tokens == "auto":
        at_most = CUDA_TOKENS if device_type == "cuda" else CPU_TOKENS
        tokens = round_down(min(max(fits, longest_pair), at_most))
    else:
        tokens = wanted_tokens
    at_once = max(longest_pair, min(tokens, most_tokens))
    return Choice(tokens, level, memory.need(at_once, level), free)


def round_down(tokens: int) -> int:
    """Return the largest number up to ``tokens`` that is a power of two or 1.5 times one."""
    power = 1 << (max(1, tokens).bit_length() - 1)
    return power * 3 // 2 if power > 1 and tokens >= power * 3 // 2 else power


def seconds(flops: float, rate: float, recompute: Recompute) -> float:
    """Return how long ``flops`` take at ASSUMED_UTILISATION of ``rate``; a second forward adds a half."""
    return flops * (1.5 if recompute is Recompute.FULL else 1.0) / (rate * ASSUMED_UTILISATION)


def measured_bytes_per_token(probe: Callable[[int], object], device: torch.device) -> int:
    """Return by how much CUDA's peak grows with each packed token, from two sizes of ``probe``."""
    peaks = []
    for tokens in _PROBES:
        probe(tokens)  # the first call of a size also allocates workspaces, which stay
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        probe(tokens)
        torch.cuda.synchronize(device)
        peaks.append(torch.cuda.max_memory_allocated(device))
    torch.cuda.reset_peak_memory_stats(device)
    return max(1, (peaks[1] - peaks[0]) // (_PROBES[1] - _PROBES[0]))


def _try(scorer: Scorer, tokens: int, trains: bool) -> None:
    """Score four pairs of ``tokens`` packed tokens in all; the head sees as many of them at any size."""
    completion = np.ones(8, np.int32)
    prompts = (np.full(tokens // 4 - 16, i, np.int32) for i in range(4))
    try:
        with contextlib.nullcontext() if trains else torch.inference_mode():
            logp_N = scorer.logps(scorer.lay_out([TokenRow(prompt, completion, completion) for prompt in prompts]))
            if trains:
                logp_N.sum().backward()  # type: ignore[no-untyped-call]
    finally:  # memory can run out in the middle of backward, and the first step would add to these gradients
        scorer.model.zero_grad(set_to_none=True)


def _agreed(accelerator: Accelerator, free: int, per_token: int) -> tuple[int, int]:
    """Return the least free memory and the most bytes a token of all ranks, so that all choose alike."""
    if accelerator.num_processes == 1:
        return free, per_token
    table = accelerator.gather(torch.tensor([[free, per_token]], device=accelerator.device))
    return int(table[:, 0].min()), int(table[:, 1].max())


def _too_long(memory: MemoryModel, free: int, longest_pair: int, level: Recompute) -> ConfigError:
    held, need = in_words(memory.held), in_words(memory.need(longest_pair, level))
    how = f"{'even ' if level is Recompute.FULL else ''}with {_IN_WORDS[level]} recomputed"
    first = "" if level is Recompute.FULL else "set `runtime.gradient_checkpointing: auto`, "
    return ConfigError(
        f"the longest pair ({longest_pair:,} tokens) needs {need} beside {held} of weights {how}; "
        f"{in_words(free)} are free",
        f"{first}lower `encode.max_prompt_tokens` or `encode.max_completion_tokens`, quantise the base "
        "or take a smaller one",
    )


def _log_choice(memory: MemoryModel, choice: Choice, flops: float, rate: float, ranks: int) -> None:
    """Log what was chosen, and how long it will take, in two lines."""
    megabytes, how = memory.per_token[choice.recompute] / 1e6, _IN_WORDS[choice.recompute]
    at_once = f"at most {choice.tokens:,} tokens at once ({megabytes:.2f} MB each, {how} recomputed)"
    held, need, free = map(in_words, (memory.held, choice.need_bytes, choice.free_bytes))
    where = " on each rank" if ranks > 1 else ""
    _log.info("memory: %s of weights, %s for %s, of %s free%s", held, need, at_once, free, where)
    if choice.need_bytes > choice.free_bytes:
        _log.warning("this may not fit: lower `runtime.tokens_per_micro_batch`, or set it to `auto`")

    time = duration(seconds(flops, rate, choice.recompute))
    speed = f"{100 * ASSUMED_UTILISATION:.0f}% of the measured {flops_in_words(rate)}"
    _log.info("work: %.3g TFLOP, about %s if %s go into it", flops / 1e12, time, speed)


def duration(length: float) -> str:
    """Return seconds as text: `40 s`, `12 min`, `3.5 h`."""
    if length < 90:
        return f"{math.ceil(length)} s"
    return f"{length / 60:.0f} min" if length < 5400 else f"{length / 3600:.1f} h"


def flops_in_words(rate: float) -> str:
    """Return operations a second as text: `85 GFLOP/s`, `0.7 PFLOP/s`."""
    for unit, size in (("PFLOP/s", 1e15), ("TFLOP/s", 1e12)):
        if rate >= size / 2:
            return f"{rate / size:.3g} {unit}"
    return f"{rate / 1e9:.3g} GFLOP/s"
