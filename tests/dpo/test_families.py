"""Families that a self-test on short pairs alone would take for ones that they are not."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.dpo.scoring import attention
from tasks.dpo.scoring.scorer import Scorer
from tasks.pairs.tokens.token_cache import TokenRow
from tests.dpo import tiny
from tests.dpo.test_prefix import ROWS, apart, relative, scored


def row(prompt: int, chosen: int, rejected: int, seed: int = 0) -> TokenRow:
    numbers = np.random.default_rng(seed)
    return TokenRow(*(numbers.integers(3, tiny.VOCABULARY, n).astype(np.int32) for n in (prompt, chosen, rejected)))


SHORT = [row(4, 3, 2, 1), row(3, 2, 4, 2)]
LONG = [row(20, 9, 12, 3), row(7, 30, 25, 4)]  # beyond the windows of 24


def apart_without_gradient(model: Any, rows: list[TokenRow]) -> Tensor:
    """Return every token's log-probability from one plain forward a completion."""
    actual = []
    for each in rows:
        for completion in (each.chosen, each.rejected):
            ids = torch.from_numpy(np.concatenate([each.prompt, completion]).astype(np.int64))[None]
            with torch.no_grad():
                logits = model(input_ids=ids, use_cache=False).logits[0, len(each.prompt) - 1 : -1]
            actual.append(torch.log_softmax(logits, -1).gather(-1, ids[0, len(each.prompt) :, None]).squeeze(-1))
    return torch.cat(actual)


def plain_logps(model: Any, sample: list[TokenRow], rows: list[TokenRow], caplog: Any) -> Tensor:
    """Score ``rows`` after a self-test on ``sample`` that finds out that they cannot be shared, and says why."""
    with caplog.at_level(logging.INFO), Scorer(model, sample) as scorer, torch.no_grad():
        assert not scorer.is_shared
        actual = scorer.logps(scorer.lay_out(rows))
    assert sum("plain padded rows" in record.message for record in caplog.records) == 1
    return actual


@pytest.mark.parametrize(
    ("family", "why"),
    [("qwen2_moe", "window of 24"), ("phimoe", "window of 24"), ("llama4", "chunks of 24")],
)
def test_windows_that_do_not_reach_the_attention_are_found_by_pairs_inside_them(
    family: str, why: str, caplog: pytest.LogCaptureFixture
):
    model = tiny.base(family).requires_grad_(True)
    actual = plain_logps(model, SHORT, LONG, caplog)
    assert float((actual - apart_without_gradient(model, LONG)).abs().max()) < 1e-4
    assert why in caplog.text


@pytest.mark.parametrize(
    "family", ["mistral", "gemma2", "gemma3", "phi3", "qwen2_window", "cohere2", "starcoder2", "olmo3"]
)
def test_windows_that_reach_the_attention_keep_shared_rows(family: str):
    model = tiny.moved(tiny.policy(family))
    expected, slopes = apart(model, ROWS)
    actual, gradients = scored(model, ROWS)  # asserts that they are
    assert float((actual - expected).abs().max()) < 1e-4
    assert relative(gradients, slopes) < 1e-5


def test_a_window_that_the_config_switches_off_is_none():
    model = tiny.base("qwen2", use_sliding_window=False, sliding_window=5)
    with Scorer(model, SHORT) as scorer:
        assert scorer.is_shared


def test_pairs_of_one_token_answers_do_not_hide_a_convolution_along_the_row(caplog: pytest.LogCaptureFixture):
    model = tiny.base("lfm2")
    actual = plain_logps(model, [row(5, 1, 1)], LONG, caplog)
    assert float((actual - apart_without_gradient(model, LONG)).abs().max()) < 1e-4


@pytest.mark.parametrize("error", [ImportError("undefined symbol"), AttributeError("no flash_attn_varlen_func")])
def test_a_broken_kernel_is_passed_over_and_named(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(*_: Any) -> Tensor:
        raise error

    monkeypatch.setitem(attention.KERNELS, "row", broken)
    with caplog.at_level(logging.INFO), Scorer(tiny.base(), ROWS) as scorer:
        assert (scorer.is_shared, scorer.kernel) == (True, "pieces")
    lines = [record.message for record in caplog.records if str(error) in record.message]
    assert len(lines) == 1
    assert "row: " in lines[0]


def test_families_that_change_projections_in_place_train():
    # OLMo's clip_qkv: transformers clamps what the projections give in place
    model = tiny.moved(tiny.policy("olmo_clipped"))
    expected, slopes = apart(model, ROWS)
    actual, gradients = scored(model, ROWS)
    assert float((actual - expected).abs().max()) < 1e-4
    assert relative(gradients, slopes) < 1e-5


def test_a_model_whose_prefix_names_nothing_is_scored_all_the_same():
    model = tiny.base("llama4")
    assert not hasattr(model, model.base_model_prefix)
    with Scorer(model, SHORT) as scorer, torch.no_grad():
        assert scorer.head is not None
        actual = scorer.logps(scorer.lay_out(LONG))
    assert float((actual - apart_without_gradient(model, LONG)).abs().max()) < 1e-4
