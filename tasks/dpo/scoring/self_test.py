"""The scorer's self-test: the head and the attention kernel that give the same log-probabilities as the model itself.

A scorer runs these tests once, on real pairs, before it scores. A head or kernel that gives other values is not used.

Shape suffixes: B rows, L tokens of a row, H hidden size, V vocabulary, N completion tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.dpo.model.anatomy import bare_model, body_of
from tasks.dpo.model.cpu_bfloat16 import product_type
from tasks.dpo.model.evaluation import evaluation_mode
from tasks.dpo.scoring.head import FrozenHead, GeneralHead, LogitShape
from tasks.dpo.scoring.layout import lay_out_plain
from tasks.dpo.scoring.lora_head import AdaptedHead
from tasks.pairs.tokens.token_cache import TokenPairs, TokenRow
from tasks.telemetry import log

# Largest difference between a token's log-probabilities, computed in two ways, that counts as rounding. A token that
# saw too many or too few others differs by more wherever the model has learnt anything.
_TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
_HEAD_TEST_TOKENS = 32  # of a row: this test computes whole logits
_log = log.get_logger(__name__)


def choose_head(model: Any, rows: Sequence[TokenRow], two_products: bool) -> FrozenHead | GeneralHead | None:
    """Return the head to score hidden states through, None where only the whole model gives the right logits.

    Args:
        model: A causal language model, bare or with adapters.
        rows: One or more pairs to test with.
        two_products: Whether a head that does not train may compute its gradient with its forward.
    """
    inner = bare_model(model)
    if (body := body_of(inner)) is None:
        _log.info("the part of this model below its head was not found: plain rows through all of it, in more memory")
        return None
    module, shape = inner.get_output_embeddings(), LogitShape.of(inner.config)
    parameter = next(inner.parameters())

    ids_BL = lay_out_plain(rows[:2]).ids_BL[:, :_HEAD_TEST_TOKENS].to(parameter.device)
    with torch.inference_mode(), evaluation_mode(model):
        whole_BLV = model(input_ids=ids_BL, use_cache=False).logits.float()
        hidden_BLH = body(input_ids=ids_BL, use_cache=False).last_hidden_state
        split_BLV = shape.apply(module(hidden_BLH).float())

    # a soft cap hardly moves the small logits of a fresh model, so float32 logits must be equal bit for bit
    is_exact = parameter.dtype == torch.float32
    if not (torch.equal(whole_BLV, split_BLV) if is_exact else torch.allclose(whole_BLV, split_BLV, 2e-2, 2e-2)):
        _log.info("this model changes its logits after the head: plain rows through all of it, in more memory")
        return None

    is_frozen = not any(weight.requires_grad for weight in module.parameters())
    if two_products and type(module) is torch.nn.Linear and is_frozen:
        return FrozenHead(module.weight, module.bias, shape, products=product_type(inner))
    return GeneralHead(AdaptedHead(module), shape)


def choose_kernel(
    kernels: Iterable[str], score: Callable[[str], Tensor], expected_N: Tensor, dtype: torch.dtype
) -> tuple[str, list[str]]:
    """Return the first kernel that gives the expected log-probabilities, "" if none does; and why others do not.

    Args:
        kernels: Names of kernels of :mod:`tasks.dpo.scoring.attention`, the preferred ones first.
        score: Scores shared rows with a kernel, [N].
        expected_N: The same tokens' log-probabilities over plain rows.
        dtype: The type that products are computed in, which decides what counts as rounding.

    Raises:
        torch.OutOfMemoryError: Memory ran out, which says nothing about the kernel.
    """
    tolerance = _TOLERANCE.get(dtype, _TOLERANCE[torch.float32])
    faults: list[str] = []
    for kernel in kernels:
        try:
            difference_N = (score(kernel) - expected_N).abs()
            worst = float(torch.nan_to_num(difference_N, nan=float("inf")).max())
        except Exception as error:  # a package of kernels that does not fit raises anything
            if isinstance(error, torch.OutOfMemoryError):
                raise
            faults.append(f"{kernel}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            continue

        if worst <= tolerance:
            return kernel, faults
        faults.append(f"{kernel}: log-probabilities off by {worst:.2g}")
    return "", faults


def sample_rows(tokens: TokenPairs) -> list[TokenRow]:
    """Return a few short pairs of a data set to test with, one of them twice: two pairs can share a prompt."""
    first = tokens.lengths[:256].sum(axis=1)
    rows = [tokens.row(int(i)) for i in np.argsort(first, kind="stable")[:3]]
    return [*rows, TokenRow(rows[-1].prompt, rows[-1].rejected, rows[-1].chosen)] if rows else []


def random_rows(vocabulary: int) -> list[TokenRow]:
    """Return two short pairs of random tokens, the same for the same vocabulary."""
    numbers = np.random.default_rng(0)
    lengths = ((9, 5, 7), (4, 8, 3))
    return [TokenRow(*(numbers.integers(0, vocabulary, n).astype(np.int32) for n in row)) for row in lengths]
