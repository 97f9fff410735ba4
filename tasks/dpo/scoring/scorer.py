"""Log-probabilities of completion tokens under one model, in the layout and with the kernels that suit it.

Shape suffixes: N completion tokens, n pairs.

At its start a scorer tries what it is about to do on real pairs: shared rows against plain rows, and the
head by itself against the whole model. What does not give the same is not used; the log says so once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.dpo.model.anatomy import body_of
from tasks.dpo.model.cpu_bfloat16 import product_type
from tasks.dpo.model.distributed import on_all_ranks
from tasks.dpo.model.evaluation import evaluation_mode
from tasks.dpo.scoring import attention
from tasks.dpo.scoring.dropout import TokenDropout
from tasks.dpo.scoring.fusion_cpu import fuse, unfuse
from tasks.dpo.scoring.head import FrozenHead, GeneralHead, LogitShape, TokenScores, collision_of, log_softmax_of
from tasks.dpo.scoring.last_layer import LastLayer
from tasks.dpo.scoring.layout import Batch, lay_out_plain, lay_out_shared
from tasks.dpo.scoring.lora import make_lean, make_plain
from tasks.dpo.scoring.lora_head import AdaptedHead
from tasks.dpo.scoring.rope import Ropes
from tasks.pairs.tokens.token_cache import TokenPairs, TokenRow
from tasks.telemetry import log

# Largest difference of a token's log-probability between two ways to compute it that is put down to rounding. A token
# that saw too much or too little differs by more wherever the model has learnt anything.
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
_TRIED_TOKENS = 32
_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class Mechanisms:
    """What a scorer may use; all of it is exact, so switching something off is for measuring and for tests.

    Attributes:
        shared_prefix: Lay every prompt out once, pairs packed without padding.
        last_layer: In the last layer of shared rows, work for the scored tokens alone.
        two_products: Compute a frozen head's gradient with its forward.
        lean_lora: Replace PEFT's forward of plain LoRA layers.
        fused: On a CPU, norms, gated parts and projections of one input in few passes.
    """

    shared_prefix: bool = True
    last_layer: bool = True
    two_products: bool = True
    lean_lora: bool = True
    fused: bool = True


class Scorer:
    """Scores completion tokens; use as a context manager, for it changes the model's attention meanwhile.

    Args:
        model: A causal language model of transformers, with or without PEFT adapters.
        sample: A few real pairs for the self-test; without any, made-up ones.
        mechanisms: What may be used.

    Attributes:
        is_shared: Whether rows are shared; else they are plain and padded.
        kernel: The attention kernel in use.
        head: What hidden states are scored through; None for the whole model.
        dropout: What the adapters drop of each token.
    """

    def __init__(self, model: Any, sample: Sequence[TokenRow] = (), mechanisms: Mechanisms | None = None) -> None:
        self.model = model
        self.mechanisms = mechanisms or Mechanisms()
        self._inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._body: Any = body_of(self._inner)
        self._own_attention = self._inner.config._attn_implementation
        self._parameter = next(self._inner.parameters())
        self.is_shared, self.kernel = False, ""
        self._last_layer: LastLayer | None = None
        self.dropout = TokenDropout()
        self._ropes = Ropes(model)
        self.peft_layers = 0
        rows = list(sample) or _made_up_rows(self._inner.get_input_embeddings().weight.shape[0])
        try:
            if self.mechanisms.lean_lora:
                self.peft_layers = make_lean(model, self.dropout)
            if self.mechanisms.fused:
                fuse(model)
            self.head = self._choose_head(rows)
            if self.mechanisms.shared_prefix:
                self._choose_layout(rows)
                self._agree()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the model its own attention and layers back."""
        self._use_last_layer(False)
        self._ropes.close()
        self._inner.set_attn_implementation(self._own_attention)
        unfuse(self.model)
        make_plain(self.model)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        found: torch.device = self._parameter.device
        return found

    def lay_out(self, rows: Sequence[TokenRow]) -> Batch:
        """Lay pairs out for :meth:`score`, on the model's device.

        Raises:
            ConfigError: What a text is given would depend on the others (:mod:`tasks.dpo.scoring.rope`).
            DataError: A prompt, chosen or rejected has no tokens.
        """
        self._ropes.check(rows)
        return (lay_out_shared if self.is_shared else lay_out_plain)(rows, self._ropes.limit).to(self.device)

    def logps(self, batch: Batch) -> Tensor:
        """Return log π(token | what stands before it), [N], float32.

        Differentiable with respect to the adapters, when gradients are on.
        """
        return self.score(batch).logp_N

    def score(self, batch: Batch, with_collision: bool = False) -> TokenScores:
        """Return each completion token's log-probability, and log Σ_v π(v)² where asked for, [N] each."""
        self.dropout.follow(batch.name_T, None if batch.segments is None else batch.segments.scored_Q)
        self._ropes.follow(batch)
        if self.head is None:
            logits_BLV = self.model(input_ids=batch.ids_BL, use_cache=False).logits
            logits_NV = logits_BLV.flatten(0, 1)[batch.source_N]
            logp_N = log_softmax_of(logits_NV, batch.label_N)
            return TokenScores(logp_N, collision_of(logits_NV) if with_collision else None)
        hidden_NH = self._hidden(batch).flatten(0, 1).index_select(0, batch.source_N)
        return self.head.score(hidden_NH, batch.label_N, with_collision)

    def _hidden(self, batch: Batch) -> Tensor:
        if self._last_layer is not None:
            self._last_layer.follow(batch.segments)
        if batch.segments is None:
            hidden: Tensor = self._body(input_ids=batch.ids_BL, use_cache=False).last_hidden_state
        else:
            hidden = self._body(
                input_ids=batch.ids_BL,
                position_ids=batch.position_BL,
                use_cache=False,
                segments=batch.segments,
                kernel=self.kernel,
            ).last_hidden_state
        return hidden

    def _choose_head(self, rows: Sequence[TokenRow]) -> FrozenHead | GeneralHead | None:
        """Return the head to score through, or None where only the whole model gives the right logits."""
        if self._body is None:
            _log.info("what this model has before its head is not found: plain rows through all of it, in more memory")
            return None
        module = self._inner.get_output_embeddings()
        shape = LogitShape.of(self._inner.config)
        ids_BL = lay_out_plain(rows[:2]).ids_BL[:, :_TRIED_TOKENS].to(self.device)  # whole logits, so of few tokens
        with self._trial():
            whole_BLV = self.model(input_ids=ids_BL, use_cache=False).logits.float()
            hidden_BLH = self._body(input_ids=ids_BL, use_cache=False).last_hidden_state
            split_BLV = shape.apply(module(hidden_BLH).float())
        # a soft cap hardly moves the small logits of a fresh model, so what can be compared exactly is
        is_exact = self._parameter.dtype == torch.float32
        if not (torch.equal(whole_BLV, split_BLV) if is_exact else torch.allclose(whole_BLV, split_BLV, 2e-2, 2e-2)):
            _log.info("this model changes its logits behind the head: plain rows through all of it, in more memory")
            return None
        if self.mechanisms.two_products and type(module) is torch.nn.Linear and not _trains(module):
            return FrozenHead(module.weight, module.bias, shape, products=product_type(self._inner))
        return GeneralHead(AdaptedHead(module), shape)

    def _choose_layout(self, rows: Sequence[TokenRow]) -> None:
        """Share prompts with the first kernel that gives what plain rows give."""
        if self.head is None:
            return
        with self._trial():
            # answers of one token, whose place is the prompt's last, would not show what one does to the next
            tried = [*rows, *_made_up_rows(self._inner.get_input_embeddings().weight.shape[0])]
            limit, reasons = self._ropes.limit, list[str]()
            plain_N = self.logps(lay_out_plain(tried, limit).to(self.device))
            shared = lay_out_shared(tried, limit).to(self.device)
            kernels = attention.kernels_for(self.device, self._parameter.dtype)
            last_layers = (True, False) if self.mechanisms.last_layer else (False,)
            for kernel, scored_alone in itertools.product(kernels, last_layers):
                try:
                    self._take_attention()
                    self._use_last_layer(scored_alone)
                    self.kernel = kernel
                    worst = _worst(self.logps(shared), plain_N)
                except Exception as error:  # a package of kernels that does not fit raises anything
                    if isinstance(error, torch.OutOfMemoryError):
                        raise
                    reasons.append(f"{kernel}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
                    continue
                if worst <= self._tolerance:
                    self.is_shared = not self._loses_window(shared, reasons)
                    break
                reasons.append(f"{kernel}: log-probabilities off by {worst:.2g}")
        if self.is_shared:
            if reasons:
                _log.info("shared rows by the kernel `%s` (%s)", self.kernel, "; ".join(dict.fromkeys(reasons)))
            return
        self.kernel = ""
        self._use_last_layer(False)
        self._inner.set_attn_implementation(self._own_attention)
        _log.info(
            "this model cannot share prompts in one row (%s): plain padded rows, about %.1f times the tokens",
            "; ".join(dict.fromkeys(reasons)),
            _tokens_apart(rows) / sum(len(part) for row in rows for part in (row.prompt, row.chosen, row.rejected)),
        )

    def _loses_window(self, shared: Batch, reasons: list[str]) -> bool:
        """Tell whether layers keep to a window that they did not pass on, which no pair inside it shows."""
        windows = set() if shared.segments is None else shared.segments.windows
        lost = attention.lost_window(self._inner.config.get_text_config(), windows)
        if lost:
            reasons[:] = [f"its {lost} is in its masks alone"]
        return bool(lost)

    def _agree(self) -> None:
        """Share prompts only where all ranks can: they cut a step into the same micro-batches."""
        if on_all_ranks(self.is_shared, self.device) or not self.is_shared:
            return
        self.is_shared, self.kernel = False, ""
        self._use_last_layer(False)
        self._inner.set_attn_implementation(self._own_attention)
        _log.info("another rank cannot share prompts in one row: plain padded rows here too")

    def _take_attention(self) -> None:
        if not getattr(self._inner, "_supports_attention_backend", False):
            raise ValueError("its attention cannot be replaced")
        self._inner.set_attn_implementation(attention.NAME)

    def _use_last_layer(self, is_used: bool) -> None:
        if self._last_layer is not None:
            self._last_layer.close()
        self._last_layer = LastLayer(self._inner) if is_used else None

    @property
    def _tolerance(self) -> float:
        return TOLERANCE.get(product_type(self._inner), TOLERANCE[torch.float32])

    @contextlib.contextmanager
    def _trial(self) -> Iterator[None]:
        with torch.inference_mode(), evaluation_mode(self.model):
            yield


def _trains(module: torch.nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _worst(one_N: Tensor, other_N: Tensor) -> float:
    """Return the largest difference, infinite where one is no number."""
    return float(torch.nan_to_num((one_N - other_N).abs(), nan=float("inf")).max())


def _tokens_apart(rows: Sequence[TokenRow]) -> int:
    return sum(2 * max(len(row.prompt) + len(part) for part in (row.chosen, row.rejected)) for row in rows)


def sample_rows(tokens: TokenPairs) -> list[TokenRow]:
    """Return a few short pairs of a data set for the self-test, one of them twice: two pairs can share a prompt."""
    first = tokens.lengths[:256].sum(axis=1)
    rows = [tokens.row(int(i)) for i in np.argsort(first, kind="stable")[:3]]
    return [*rows, TokenRow(rows[-1].prompt, rows[-1].rejected, rows[-1].chosen)] if rows else []


def _made_up_rows(vocabulary: int) -> list[TokenRow]:
    numbers = np.random.default_rng(0)
    lengths = ((9, 5, 7), (4, 8, 3))
    return [TokenRow(*(numbers.integers(0, vocabulary, n).astype(np.int32) for n in row)) for row in lengths]


def sum_by_branch(logps_N: Tensor, batch: Batch, weights_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum token log-probabilities over each completion: (chosen, rejected), each [n], float64.

    A float32 sum over a thousand tokens is off by more than the log-ratios that it is there to tell.
    """
    values_N = logps_N.double() if weights_N is None else logps_N.double() * weights_N
    sums = torch.zeros(2 * batch.pairs, dtype=torch.float64, device=logps_N.device)
    sums = sums.index_add(0, batch.branch_N, values_N)
    return sums[0::2], sums[1::2]
