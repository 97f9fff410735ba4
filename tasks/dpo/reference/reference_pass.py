"""The pass of a fixed reference over a data set: block by block, each pair scored once, shared out over the ranks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator

from tasks.core.base_model import BaseModel
from tasks.core.errors import ArtifactError, Preempted
from tasks.core.pinned_adapter import PinnedAdapter
from tasks.core.runtime import RuntimeConfig
from tasks.core.stopping import StopRequest, listen_for_stop
from tasks.dpo.dataset.blocks import Block, Logps, Rows, completion_tokens, cuts, part
from tasks.dpo.dataset.scored_pairs import ScoredPairs
from tasks.dpo.model.distributed import open_accelerator, sum_over_ranks
from tasks.dpo.reference.row_recall import RowRecall
from tasks.pairs.tokens.token_cache import TokenPairs

if TYPE_CHECKING:
    from tasks.dpo.reference.rank_scorer import RankScorer


def reference_logps(
    model: Any,
    tokens: TokenPairs,
    runtime: RuntimeConfig | None = None,
    recall: RowRecall | None = None,
    with_adapter: bool = False,
) -> ScoredPairs:
    """Score every completion token under the reference: adapters off, dropout off, float32.

    Args:
        model: The base model, or a policy whose adapters are switched off for the time.
        tokens: The pairs to score.
        runtime: How much fits at once; ranks share the work.
        recall: Rows that were scored before; the others are added to them.
        with_adapter: Leave the adapters on: they are the reference.

    Returns:
        The pairs with their log-probabilities, complete on every rank.

    Raises:
        ArtifactError: A log-probability is missing, NaN or inf, or a token is none of the base's.
        ConfigError: Not even one pair at a time fits into memory.
        Preempted: The process was asked to stop; what was scored is in the store of ``recall``.
    """
    reference = ReferencePass(lambda: model, runtime or RuntimeConfig(), recall, with_adapter)
    return ScoredPairs(tokens, np.concatenate([np.zeros(0, np.float32), *reference.blocks(tokens)]))


def load_reference(base: Path, adapter: PinnedAdapter | None, accelerator: Accelerator, runtime: RuntimeConfig) -> Any:
    """Load the base with ``adapter`` on it, frozen, where there is one; the files are checked.

    Raises:
        ArtifactError: A file is damaged.
        ConfigError: The adapter does not fit the base.
    """
    # only here, because transformers and PEFT take seconds to import
    from tasks.dpo.model.adapter_loading import load_adapter
    from tasks.dpo.model.base_loading import load_base
    from tasks.dpo.model.sharding import is_wanted

    model = load_base(BaseModel.open(base), accelerator.device, is_sharded=is_wanted(runtime, accelerator))
    return load_adapter(model, adapter.folder).requires_grad_(False) if adapter else model


class ReferencePass:
    """Goes over data sets under one reference, whose model is loaded when the first row is missing.

    Attributes:
        scored: Pairs that went through the model, over all ranks.
        recalled: Pairs that the row store had.

    Args:
        load: Makes the model; called once, on every rank or on none.
        runtime: How much fits at once, and how often scored rows are stored.
        recall: Rows that were scored before; the others are added to them.
        with_adapter: Leave the model's adapters on: they are the reference.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        runtime: RuntimeConfig,
        recall: RowRecall | None = None,
        with_adapter: bool = False,
    ) -> None:
        self.scored = self.recalled = 0
        self._load, self._runtime, self._recall, self._with_adapter = load, runtime, recall, with_adapter
        self._accelerator = open_accelerator(runtime)
        self._model: Any = None

    def blocks(self, tokens: TokenPairs) -> Iterator[Logps]:
        """Yield the log-probabilities of all rows in their order, a bounded number at a time, on every rank.

        Raises:
            ArtifactError: A log-probability is missing, NaN or inf, or a token is none of the base's.
            ConfigError: Not even one pair at a time fits into memory; what was scored is in the store.
            Preempted: The process was asked to stop; likewise.
        """
        with contextlib.ExitStack() as stack:
            stop, scorer = stack.enter_context(listen_for_stop()), None
            for first, last in cuts(completion_tokens(tokens)):
                block = Block(part(tokens, first, last))
                if self._recall is not None:
                    self._recall.fill(block, self._accelerator)

                if len(missing := np.flatnonzero(~block.is_done)):
                    scorer = scorer or stack.enter_context(self._open_scorer(tokens))
                    self._score(scorer, block, missing, stop)
                else:
                    self._all_gather(block, is_asked_to_stop=False)

                self.recalled += len(block.tokens) - len(missing)
                self.scored += len(missing)
                yield block.flat

    def _open_scorer(self, tokens: TokenPairs) -> contextlib.AbstractContextManager[RankScorer]:
        # only here, because transformers and PEFT take seconds to import
        from tasks.dpo.model.sharding import place
        from tasks.dpo.reference.rank_scorer import open_rank_scorer

        if self._model is None:
            self._model = place(self._load(), self._accelerator, self._runtime)
        return open_rank_scorer(self._model, tokens, self._runtime, self._accelerator, self._with_adapter)

    def _score(self, scorer: RankScorer, block: Block, missing: Rows, stop: StopRequest) -> None:
        """Score the rows ``missing`` of a block, shared out over the ranks, and store them."""
        stored_at = time.monotonic()
        try:
            with scorer.reference_state():
                for rows, logps in scorer.passes(block.tokens, missing):
                    block.put(rows, logps)
                    must_end = scorer.must_end(stop.is_set)
                    if must_end or time.monotonic() - stored_at > self._runtime.checkpoint_every_s:
                        self._store(block)
                        stored_at = time.monotonic()
                    if must_end:
                        break
        except Exception:
            self._store(block)
            raise

        must_stop = self._all_gather(block, stop.is_set)
        if self._accelerator.is_main_process:
            self._store(block)

        if must_stop:
            again = "run again to go on: what was scored is kept" if self._recall else "run again from the start"
            raise Preempted("scoring the reference was told to stop", again)
        if missing_count := int(block.lengths[~block.is_done].sum()):
            problem = f"{missing_count} of {len(block.flat)} reference log-probabilities are NaN or inf"
            raise ArtifactError(problem, "check the base model")

    def _store(self, block: Block) -> None:
        if self._recall is not None:
            self._recall.keep(block)

    def _all_gather(self, block: Block, is_asked_to_stop: bool) -> bool:
        """Give every rank the rows of all ranks; return whether any rank was asked to stop."""
        if self._accelerator.num_processes == 1:
            return is_asked_to_stop
        # a stored row counts on rank 0 alone: each row is one rank's and zero elsewhere, so the sum is exact
        is_counted = block.is_done & (self._accelerator.is_main_process | ~block.was_stored)
        flags = np.concatenate([is_counted, [is_asked_to_stop]]).astype(np.float32)
        packed = torch.from_numpy(np.concatenate([block.flat, flags])).to(self._accelerator.device)
        summed = sum_over_ranks(self._accelerator, packed).cpu().numpy()
        block.flat, block.is_done = summed[: len(block.flat)], summed[len(block.flat) : -1] == 1
        return bool(summed[-1])
