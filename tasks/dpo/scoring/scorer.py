"""Log-probabilities of completion tokens under one model, in the fastest layout and with the fastest kernels that fit.

At its start a scorer tests on real pairs what it is about to use: shared rows against plain rows, and the head by
itself against the whole model (:mod:`tasks.dpo.scoring.self_test`). The log says once what is not used, and why.

Shape suffixes: B rows, L tokens of a row, N completion tokens, H hidden size, V vocabulary, n pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tasks.dpo.model.anatomy import bare_model, body_of
from tasks.dpo.model.cpu_bfloat16 import product_type
from tasks.dpo.model.distributed import on_all_ranks
from tasks.dpo.model.evaluation import evaluation_mode
from tasks.dpo.scoring import attention
from tasks.dpo.scoring.dropout import TokenDropout
from tasks.dpo.scoring.fusion_cpu import fuse, unfuse
from tasks.dpo.scoring.head import TokenScores, scores_of
from tasks.dpo.scoring.layout import Batch, lay_out_plain, lay_out_shared, length_of_longest
from tasks.dpo.scoring.lora import make_lean, make_plain
from tasks.dpo.scoring.rope import Ropes
from tasks.dpo.scoring.self_test import choose_head, choose_kernel, random_rows
from tasks.pairs.tokens.token_cache import TokenRow
from tasks.telemetry import log

_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class Mechanisms:
    """What a scorer may use. All of it is exact, so benchmarks and tests alone switch a mechanism off.

    Attributes:
        shared_prefix: Lay every prompt out once, pairs packed without padding.
        two_products: Compute a frozen head's gradient with its forward.
        lean_lora: Replace PEFT's forward of plain LoRA layers.
        fused: On a CPU, compute norms, gated parts and projections of one input in few passes.
    """

    shared_prefix: bool = True
    two_products: bool = True
    lean_lora: bool = True
    fused: bool = True


class Scorer:
    """Scores completion tokens. A context manager: meanwhile the model's attention and layers are replaced.

    Args:
        model: A causal language model of transformers, with or without PEFT adapters.
        sample: A few real pairs for the self-test; without any, random ones.
        mechanisms: What may be used.

    Attributes:
        device: The model's device.
        kernel: The attention kernel over shared rows; "" for plain rows through the model's own attention.
        head: What hidden states are scored through; None for the whole model.
        dropout: What the adapters drop of each token.
    """

    def __init__(self, model: Any, sample: Sequence[TokenRow] = (), mechanisms: Mechanisms | None = None) -> None:
        self.model = model
        self.mechanisms = mechanisms or Mechanisms()
        self._inner = bare_model(model)
        self._body: Any = body_of(self._inner)
        first_weight = next(self._inner.parameters())
        self.device: torch.device = first_weight.device
        self._dtype = first_weight.dtype
        self._model_attention = self._inner.config._attn_implementation

        self.kernel = ""
        self.dropout = TokenDropout()
        self._ropes = Ropes(model)

        # completions of one token would not show whether one token leaks into the next, so random pairs are tested too
        random = random_rows(self._inner.get_input_embeddings().weight.shape[0])
        rows = list(sample) or random
        try:
            if self.mechanisms.lean_lora:
                make_lean(model, self.dropout)
            if self.mechanisms.fused:
                fuse(model)
            self.head = choose_head(model, rows, self.mechanisms.two_products)
            if self.mechanisms.shared_prefix:
                self._share_prompts(rows, [*rows, *random])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Restore the model's own attention and layers."""
        self._use_kernel("")
        self._ropes.close()
        unfuse(self.model)
        make_plain(self.model)

    @property
    def is_shared(self) -> bool:
        """Whether rows share their prompts; otherwise they are plain and padded."""
        return bool(self.kernel)

    def lay_out(self, rows: Sequence[TokenRow]) -> Batch:
        """Lay pairs out for :meth:`score`, on the model's device.

        Raises:
            ConfigError: A text's positions would depend on the other texts (:mod:`tasks.dpo.scoring.rope`).
            DataError: A prompt, chosen or rejected has no tokens.
        """
        self._ropes.check(rows)
        return (lay_out_shared if self.is_shared else lay_out_plain)(rows, self._ropes.limit).to(self.device)

    def logps(self, batch: Batch) -> Tensor:
        """Return log π(token | the tokens before it), [N], float32.

        Differentiable with respect to the adapters, when gradients are on.
        """
        return self.score(batch).logp_N

    def score(self, batch: Batch, with_collision: bool = False) -> TokenScores:
        """Return each completion token's log-probability, and log Σ_v π(v)² where asked for, [N] each."""
        self.dropout.follow(batch.hash_T)
        self._ropes.follow(batch)
        if self.head is None:
            logits_BLV = self.model(input_ids=batch.ids_BL, use_cache=False).logits
            return scores_of(logits_BLV.flatten(0, 1)[batch.source_N], batch.label_N, with_collision)

        options: dict[str, Any] = {}
        if batch.segments is not None:
            options = {"position_ids": batch.position_BL, "segments": batch.segments, "kernel": self.kernel}
        hidden_BLH = self._body(input_ids=batch.ids_BL, use_cache=False, **options).last_hidden_state
        hidden_NH = hidden_BLH.flatten(0, 1).index_select(0, batch.source_N)
        return self.head.score(hidden_NH, batch.label_N, with_collision)

    def _share_prompts(self, rows: Sequence[TokenRow], tested: Sequence[TokenRow]) -> None:
        """Use the first kernel whose shared rows give what plain rows give, on all ranks or on none."""
        if self.head is not None:
            kernel, faults = self._test_kernels(tested)
            reasons = "; ".join(dict.fromkeys(faults))
            if kernel and faults:
                _log.info("shared rows by the kernel `%s` (%s)", kernel, reasons)
            elif not kernel:
                padded = sum(2 * length_of_longest([row]) for row in rows)
                packed = sum(len(row.prompt) + len(row.chosen) + len(row.rejected) for row in rows)
                text = "this model cannot share prompts in one row (%s): plain padded rows, about %.1f times the tokens"
                _log.info(text, reasons, padded / packed)

        # ranks cut a step into the same micro-batches, so they all need the same layout
        if not on_all_ranks(self.is_shared, self.device) and self.is_shared:
            self._use_kernel("")
            _log.info("another rank cannot share prompts in one row: plain padded rows here too")

    def _test_kernels(self, rows: Sequence[TokenRow]) -> tuple[str, list[str]]:
        """Return the kernel that is in use from now on, "" for none, and why others are not."""
        plain, shared = (
            lay_out(rows, self._ropes.limit).to(self.device) for lay_out in (lay_out_plain, lay_out_shared)
        )
        kernels = attention.kernels_for(self.device, self._dtype)

        def score(kernel: str) -> Tensor:
            self._use_kernel(kernel)
            return self.logps(shared)

        with torch.inference_mode(), evaluation_mode(self.model):
            kernel, faults = choose_kernel(kernels, score, self.logps(plain), product_type(self._inner))

        # a layer that keeps to a window, and did not pass it on, shows it only on pairs longer than the window
        windows = set() if shared.segments is None else shared.segments.windows
        if kernel and (lost := attention.lost_window(self._inner.config.get_text_config(), windows)):
            kernel, faults = "", [f"its {lost} is in its masks alone"]
        if not kernel:
            self._use_kernel("")
        return kernel, faults

    def _use_kernel(self, kernel: str) -> None:
        """Compute attention with ``kernel`` over shared rows; with "", as the model itself does."""
        if kernel and not getattr(self._inner, "_supports_attention_backend", False):
            raise ValueError("its attention cannot be replaced")
        self._inner.set_attn_implementation(attention.NAME if kernel else self._model_attention)
        self.kernel = kernel


def sum_by_branch(logps_N: Tensor, batch: Batch, weights_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum token log-probabilities over each completion: (chosen, rejected), each [n], float64.

    In float32 the sum over a thousand tokens would be wrong by more than the log-ratios that are taken from it.
    """
    values_N = logps_N.double() if weights_N is None else logps_N.double() * weights_N
    sums = torch.zeros(2 * batch.pairs, dtype=torch.float64, device=logps_N.device)
    sums = sums.index_add(0, batch.branch_N, values_N)
    return sums[0::2], sums[1::2]
