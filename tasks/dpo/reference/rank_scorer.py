"""This rank's share of scoring: a model in the state that the reference is defined by, and a token budget."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from tasks.core.errors import ArtifactError
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.capacity.budget import Budget, within
from tasks.dpo.capacity.preflight import preflight
from tasks.dpo.capacity.step_plan import Sizes, evened, micro_batches
from tasks.dpo.capacity.workload import Workload
from tasks.dpo.dataset.blocks import Logps, Rows
from tasks.dpo.model import sharding
from tasks.dpo.model.distributed import on_any_rank
from tasks.dpo.model.evaluation import evaluation_mode
from tasks.dpo.model.threads import suited_threads
from tasks.dpo.scoring.scorer import Scorer
from tasks.dpo.scoring.self_test import sample_rows
from tasks.pairs.tokens.token_cache import TokenPairs
from tasks.telemetry import log


class RankScorer:
    """Scores the pairs that fall to this rank. Use :func:`open_rank_scorer`.

    Args:
        scorer: Of the model.
        accelerator: This rank and the others.
        budget: The tokens at once that all ranks agreed on; this rank's may shrink.
        with_adapter: Leave the model's adapters on: they are the reference.
    """

    def __init__(self, scorer: Scorer, accelerator: Accelerator, budget: Budget, with_adapter: bool) -> None:
        self._scorer, self._accelerator, self._with_adapter = scorer, accelerator, with_adapter
        self._budget, self._agreed_tokens = budget, budget.tokens
        self._is_sharded = sharding.is_sharded(scorer.model)

    def passes(self, tokens: TokenPairs, missing: Rows) -> Iterator[tuple[Rows, Logps]]:
        """Score this rank's micro-batches of the rows ``missing``; out of memory, the rest is cut finer.

        Call it within :meth:`reference_state`.

        Yields:
            The rows of one forward and their log-probabilities, one row after the other. A sharded base makes
            forwards for the other ranks' sake, too; those give no rows.

        Raises:
            ConfigError: Not even one pair at a time fits into memory.
        """
        sizes = Sizes.of(tokens, self._scorer.is_shared)
        # the ranks share the rows out by the budget that all agreed on, and each cuts its share by its own
        batches = micro_batches(missing, sizes, self._agreed_tokens, self._accelerator.num_processes)
        shares = evened(batches, sizes, self._accelerator.process_index, self._accelerator.num_processes)
        with log.bar("reference", len(shares), unit="batch") as bar:
            for batch, counts in shares:
                left = batch
                while len(left) and (counts or self._is_sharded):
                    forward = functools.partial(self._forward, tokens, left, sizes)
                    rows, logps = within(self._budget, forward, lambda: None)
                    yield (rows, logps) if counts else (rows[:0], logps[:0])
                    left = np.setdiff1d(left, rows, assume_unique=True)
                bar.update()

    def _forward(self, tokens: TokenPairs, left: Rows, sizes: Sizes, at_once: int) -> tuple[Rows, Logps]:
        """Score as many of the rows ``left`` as ``at_once`` tokens allow."""
        rows = left if at_once >= self._agreed_tokens else micro_batches(left, sizes, at_once)[0]
        logps = self._scorer.logps(self._scorer.lay_out([tokens.row(int(row)) for row in rows]))
        return rows, logps.float().cpu().numpy()

    def must_end(self, is_asked_to_stop: bool) -> bool:
        """Tell whether this rank ends its passes here: sharded, no rank makes one without the others."""
        return on_any_rank(self._accelerator, is_asked_to_stop) if self._is_sharded else is_asked_to_stop

    def reference_state(self) -> contextlib.AbstractContextManager[None]:
        """Put the model in the state that the reference is defined by, for a block."""
        return _reference_state(self._scorer.model, self._with_adapter)


@contextlib.contextmanager
def open_rank_scorer(
    model: Any, tokens: TokenPairs, runtime: RuntimeConfig, accelerator: Accelerator, with_adapter: bool
) -> Iterator[RankScorer]:
    """Prepare ``model`` to score ``tokens``: choose its kernels and the token budget; undo it afterwards.

    Args:
        model: The model, on this rank's device.
        tokens: The pairs, by which the budget is chosen; parts of them are scored.
        runtime: How much fits at once.
        accelerator: This rank and the others.
        with_adapter: Leave the model's adapters on: they are the reference.

    Raises:
        ArtifactError: A token is none of the model's.
        ConfigError: The longest pair does not fit into memory.
    """
    _check_vocabulary(model, tokens)
    with contextlib.ExitStack() as stack:
        with _reference_state(model, with_adapter):
            scorer = stack.enter_context(Scorer(model, sample_rows(tokens)))
            workload = Workload(Sizes.of(tokens, scorer.is_shared), len(tokens), trains=False)
            at_once = runtime.tokens_per_micro_batch
            if at_once == "auto":
                at_once = preflight(scorer, workload, runtime, accelerator).tokens
        budget = Budget(at_once, workload.longest_pair, sharding.is_sharded(model))
        yield RankScorer(scorer, accelerator, budget, with_adapter)


@contextlib.contextmanager
def _reference_state(model: Any, with_adapter: bool) -> Iterator[None]:
    """Switch adapters (unless they are the reference), dropout and gradients off."""
    has_adapters = hasattr(model, "disable_adapter")
    adapters_off = model.disable_adapter() if has_adapters and not with_adapter else contextlib.nullcontext()
    with torch.inference_mode(), adapters_off, evaluation_mode(model), suited_threads(model):
        yield


def _check_vocabulary(model: Any, tokens: TokenPairs) -> None:
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if (largest := int(tokens.ids.max(initial=0))) >= vocabulary:
        raise ArtifactError(
            f"the tokens hold token id {largest}, the base has embeddings for {vocabulary}",
            "its tokenizer does not fit its weights: choose another `base.source`",
        )
