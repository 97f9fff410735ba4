"""The token budget: when memory runs out, it is halved and the step is done again.

Results do not depend on how a step is cut, so a rank that runs out of memory cuts its pairs finer without asking
the other ranks. Which pairs fall to which rank does not change.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from tasks.core.errors import ConfigError
from tasks.telemetry import log

T = TypeVar("T")
_log = log.get_logger(__name__)
# torch's allocator on a CPU (Linux, then Windows), the CUDA runtime and cuBLAS raise plain RuntimeErrors.
_SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


class Budget:
    """The packed tokens that this rank takes at once.

    Args:
        tokens: The budget at the start.
        longest_pair: Packed tokens of the longest pair, the least that is ever tried.
        is_sharded: The base is sharded: the budget is never halved, because no rank can repeat a part alone.

    Attributes:
        tokens: The budget now.
    """

    def __init__(self, tokens: int, longest_pair: int, is_sharded: bool = False) -> None:
        self.tokens, self._least, self._is_sharded = tokens, longest_pair, is_sharded

    def halve(self) -> None:
        """Halve the budget and log it.

        Raises:
            ConfigError: A micro-batch is one pair already, or the base is sharded.
        """
        if self._is_sharded:
            raise ConfigError(
                f"memory ran out at {self.tokens:,} tokens at once, "
                "and a sharded base cannot go on with less by itself",
                "lower `runtime.tokens_per_micro_batch`, or set `runtime.gradient_checkpointing: true`",
            )
        if self.tokens <= self._least:
            raise ConfigError(
                f"memory ran out on a single pair ({self._least:,} tokens at the longest)",
                "set `runtime.gradient_checkpointing: true` if it is not, lower `encode.max_prompt_tokens` or "
                "`encode.max_completion_tokens`, quantise the base or take a smaller one",
            )
        before, self.tokens = self.tokens, max(self.tokens // 2, self._least)
        _log.warning("memory ran out at %s tokens at once: going on with %s", f"{before:,}", f"{self.tokens:,}")


def within(budget: Budget, attempt: Callable[[int], T], undo: Callable[[], None]) -> T:
    """Return ``attempt(tokens)``, made again with half the tokens each time that memory runs out.

    Args:
        budget: The tokens to start with; it stays halved for the steps that follow.
        attempt: The whole task; its only side effects are those that ``undo`` reverts.
        undo: Called after each failure, for example to drop gradients summed so far.

    Raises:
        ConfigError: A single pair does not fit.
    """
    while True:
        try:
            return attempt(budget.tokens)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # only here, after the handler, are the traceback's frames freed, and the tensors that they held
        undo()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        budget.halve()


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether ``error`` says that a device's or the machine's memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
