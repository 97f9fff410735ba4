"""Log-probabilities of the fixed reference: each row computed once, checked for holes, read beside the tokens."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator

from tasks.core import ragged
from tasks.core.errors import ArtifactError, Preempted
from tasks.core.runtime import RuntimeConfig
from tasks.core.stopping import StopRequest, listen_for_stop
from tasks.dpo.capacity.budget import Budget, within
from tasks.dpo.capacity.step_plan import Sizes, micro_batches
from tasks.dpo.dataset.blocks import Block, Logps, Mask, Rows, completion_tokens, cuts, part
from tasks.dpo.dataset.scored_pairs import ScoredPairs
from tasks.dpo.model.distributed import accelerator, from_main, on_any_rank, sum_over_ranks
from tasks.dpo.model.evaluation import evaluation_mode
from tasks.dpo.model.threads import suited_threads
from tasks.dpo.reference.row_identity import ReferenceIdentity, row_keys
from tasks.pairs.tokens.token_cache import TokenPairs
from tasks.telemetry import log

if TYPE_CHECKING:
    from tasks.dpo.scoring.scorer import Scorer


class RowCache(Protocol):
    """What the reference asks of a store of rows (:class:`tasks.rowstore.row_store.RowStore` is one)."""

    def get(self, keys: npt.NDArray[np.uint8]) -> Any:
        """Look up keys, uint8 [n, 32]: an object with `mask` bool [n], `lengths` int64 [n] and `flat`."""
        ...

    def append(self, keys: npt.NDArray[np.uint8], flat: Logps, lengths: Rows) -> None:
        """Add rows: their keys, their values one after the other, and how many each has."""
        ...


@dataclasses.dataclass(frozen=True)
class Known:
    """Rows that were scored before, and what names them."""

    rows: RowCache
    identity: ReferenceIdentity


def reference_logps(
    model: Any,
    tokens: TokenPairs,
    runtime: RuntimeConfig | None = None,
    known: Known | None = None,
    with_adapter: bool = False,
) -> ScoredPairs:
    """Score every completion token under the reference: adapters off, dropout off, float32.

    Args:
        model: The base model, or a policy whose adapters are switched off for the time.
        tokens: The pairs to score.
        runtime: How much fits at once; ranks share the work.
        known: Rows that were scored before; the others are added to them.
        with_adapter: Leave the adapters on: they are the reference.

    Returns:
        The pairs with their log-probabilities, complete on every rank.

    Raises:
        ArtifactError: A slot stayed empty or is not a finite number, or a token is none of the base's.
        Preempted: The process was told to stop; what was scored is among ``known``.
    """
    scoring = Scoring(lambda: model, runtime or RuntimeConfig(), known, with_adapter)
    return ScoredPairs(tokens, np.concatenate([np.zeros(0, np.float32), *scoring.blocks(tokens)]))


class Scoring:
    """Scores pairs under a reference that is loaded when the first row is missing.

    Attributes:
        scored: Pairs that met the model, over all ranks.
        recalled: Pairs that were known.

    Args:
        load: Makes the model; called once, on every rank or on none.
        runtime: How much fits at once; ranks share the work.
        known: Rows that were scored before, asked on rank 0; the others are added to them.
        with_adapter: Leave the model's adapters on: they are the reference.
    """

    def __init__(
        self, load: Callable[[], Any], runtime: RuntimeConfig, known: Known | None = None, with_adapter: bool = False
    ) -> None:
        self.scored = self.recalled = 0
        self._load, self._runtime, self._known, self._with_adapter = load, runtime, known, with_adapter
        self._device: Accelerator = accelerator(runtime)
        self._model: Any = None
        self._planned, self._budget = 0, Budget(0, 0)

    def blocks(self, tokens: TokenPairs) -> Iterator[Logps]:
        """Yield the log-probabilities of all rows in their order, a bounded number at a time, on every rank.

        Raises:
            ArtifactError: A slot stayed empty or is not a finite number, or a token is none of the base's.
            ConfigError: Not even one pair at a time fits into memory; what was scored is in the store.
            Preempted: The process was told to stop; likewise.
        """
        with contextlib.ExitStack() as stack:
            stop, scorer = stack.enter_context(listen_for_stop()), None
            for first, last in cuts(completion_tokens(tokens)):
                block = self._recall(part(tokens, first, last))
                if len(missing := np.flatnonzero(~block.is_done)):
                    if scorer is None:
                        scorer = stack.enter_context(self._open_scorer(tokens))
                    self._score(scorer, block, missing, stop)
                else:
                    self._gather(block, wants_stop=False)
                self.recalled += len(block.tokens) - len(missing)
                self.scored += len(missing)
                yield block.flat

    def _recall(self, tokens: TokenPairs) -> Block:
        """Return a block with what is known of it: the values on rank 0, which rows on every rank."""
        block = Block(tokens)
        if self._known is None:
            return block
        block.keys = row_keys(tokens, self._known.identity.digest)
        if self._device.is_main_process:
            found = self._known.rows.get(block.keys)
            rows = np.flatnonzero(found.mask & (found.lengths == block.lengths))
            begins = np.cumsum(found.lengths) - found.lengths
            block.put(rows, found.flat[ragged.spans(begins[rows], block.lengths[rows])])
        block.was_known = from_main(self._device, block.is_done)
        block.is_done = block.was_known.copy()
        return block

    def _score(self, scorer: Scorer, block: Block, missing: Rows, stop: StopRequest) -> None:
        """Score the rows of a block that are ``missing``, shared out over the ranks, and keep them."""
        from tasks.dpo.model.sharding import is_sharded  # with transformers

        kept, kept_at, is_even = block.is_done.copy(), time.monotonic(), is_sharded(scorer.model)
        try:
            with self._ready():
                for rows, values in self._passes(scorer, block.tokens, missing):
                    block.put(rows, values)
                    # sharded, no rank passes without the others, so all end together
                    must_end = on_any_rank(self._device, stop.is_set) if is_even else stop.is_set
                    if must_end or time.monotonic() - kept_at > self._runtime.checkpoint_every_s:
                        kept, kept_at = self._keep(block, kept), time.monotonic()
                    if must_end:
                        break
        except Exception:
            self._keep(block, kept)
            raise
        must_stop = self._gather(block, stop.is_set)
        if self._device.is_main_process:
            self._keep(block, kept)
        if must_stop:
            again = "run again to go on: what was scored is kept" if self._known else "run again from the start"
            raise Preempted("scoring the reference was told to stop", again)
        if bad := int(block.lengths[~block.is_done].sum()):
            told = f"{bad} of {len(block.flat)} reference log-probabilities are not numbers"
            raise ArtifactError(told, "check the base model")

    def _passes(self, scorer: Scorer, tokens: TokenPairs, missing: Rows) -> Iterator[tuple[Rows, Logps]]:
        """Score this rank's micro-batches of the rows that are ``missing``; out of memory, those left are cut finer.

        Yields:
            The rows of a pass, none where it is for the other ranks' sake, and their values, one row after the other.
        """
        from tasks.dpo.capacity.step_plan import evened
        from tasks.dpo.model.sharding import is_sharded  # with transformers

        sizes, is_even = Sizes.of(tokens, scorer.is_shared), is_sharded(scorer.model)

        def score(left: Rows, at_once: int) -> tuple[Rows, Logps]:
            rows = left if at_once >= self._planned else micro_batches(left, sizes, at_once)[0]
            values = scorer.logps(scorer.lay_out([tokens.row(int(row)) for row in rows]))
            return rows, values.float().cpu().numpy()

        # whose rows are whose is planned with the budget that all ranks agreed on
        batches = micro_batches(missing, sizes, self._planned, self._device.num_processes)
        passes = evened(batches, sizes, self._device.process_index, self._device.num_processes)
        for left, counts in log.progress(passes, "reference", unit="batch"):
            while len(left) and (counts or is_even):
                rows, values = within(self._budget, functools.partial(score, left), lambda: None)
                yield (rows, values) if counts else (rows[:0], values[:0])
                left = np.setdiff1d(left, rows, assume_unique=True)

    def _keep(self, block: Block, kept: Mask) -> Mask:
        """Hand the rows that are done and not ``kept`` to the store; return which are kept now."""
        if self._known is not None and len(new := np.flatnonzero(block.is_done & ~kept)):
            places = ragged.spans(block.begins[new], block.lengths[new])
            self._known.rows.append(block.keys[new], block.flat[places], block.lengths[new])
        return block.is_done.copy()

    def _gather(self, block: Block, wants_stop: bool) -> bool:
        """Put all ranks' rows together on every rank; return whether any rank wants to stop."""
        if self._device.num_processes == 1:
            return wants_stop
        is_own = block.is_done & (self._device.is_main_process | ~block.was_known)
        own = np.concatenate([block.flat, is_own.astype(np.float32), np.full(1, wants_stop, np.float32)])
        # each row is one rank's and zero elsewhere, so the sum is exact
        summed = sum_over_ranks(self._device, torch.from_numpy(own).to(self._device.device)).cpu().numpy()
        block.flat, block.is_done = summed[: len(block.flat)], summed[len(block.flat) : -1] == 1
        return bool(summed[-1])

    @contextlib.contextmanager
    def _open_scorer(self, tokens: TokenPairs) -> Iterator[Scorer]:
        from tasks.dpo.model.sharding import place
        from tasks.dpo.scoring.scorer import (  # with transformers and PEFT, which take seconds to import
            Scorer,
            sample_rows,
        )

        if self._model is None:
            self._model = place(self._load(), self._device, self._runtime)
        _check_vocabulary(self._model, tokens)
        with contextlib.ExitStack() as stack:
            with self._ready():
                scorer = stack.enter_context(Scorer(self._model, sample_rows(tokens)))
                self._budget = self._choose_budget(scorer, tokens)
                self._planned = self._budget.tokens
            yield scorer

    def _choose_budget(self, scorer: Scorer, tokens: TokenPairs) -> Budget:
        from tasks.dpo.capacity.budget import FixedBudget
        from tasks.dpo.capacity.preflight import preflight  # with transformers
        from tasks.dpo.capacity.workload import Work
        from tasks.dpo.model.sharding import is_sharded

        work = Work(Sizes.of(tokens, scorer.is_shared), len(tokens), trains=False)
        planned = self._runtime.tokens_per_micro_batch
        if planned == "auto":
            planned = preflight(scorer, work, self._runtime, self._device).tokens
        return (FixedBudget if is_sharded(scorer.model) else Budget)(planned, work.longest_pair)

    @contextlib.contextmanager
    def _ready(self) -> Iterator[None]:
        """Put the model in the state that the reference is defined by."""
        can_switch = hasattr(self._model, "disable_adapter") and not self._with_adapter
        switch = self._model.disable_adapter() if can_switch else contextlib.nullcontext()
        with torch.inference_mode(), switch, evaluation_mode(self._model), suited_threads(self._model):
            yield


def _check_vocabulary(model: Any, tokens: TokenPairs) -> None:
    known = model.get_input_embeddings().weight.shape[0]
    if (largest := int(tokens.ids.max(initial=0))) >= known:
        raise ArtifactError(
            f"the tokens hold token id {largest}, the base has embeddings for {known}",
            "its tokenizer does not fit its weights: choose another `base.source`",
        )
