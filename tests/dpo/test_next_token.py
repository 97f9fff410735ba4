"""The next token: the same as transformers' processors and a full sort of the vocabulary give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tasks.dpo.generation.next_token import draw, next_tokens
from tasks.dpo.generation.questions import Sampling

ROWS, VOCABULARY = 40, 3000
GENERATOR = torch.Generator().manual_seed(0)
# from rows where one token has nearly all the probability to rows where all have about the same
LOGITS = torch.randn(ROWS, VOCABULARY, generator=GENERATOR) * torch.linspace(0.01, 12, ROWS)[:, None]
UNIFORMS = torch.rand(ROWS, generator=GENERATOR, dtype=torch.float64)
IDS = torch.randint(0, VOCABULARY, (ROWS, 9), generator=GENERATOR)
ONES = torch.ones_like(IDS)


def by_transformers(temperature: float, top_k: int | None, top_p: float, penalty: float = 1.0) -> Tensor:
    """What transformers' processors keep, drawn over the whole vocabulary in its order."""
    steps = [
        RepetitionPenaltyLogitsProcessor(penalty),
        TemperatureLogitsWarper(temperature),
        *([TopKLogitsWarper(top_k)] if top_k else []),
        *([TopPLogitsWarper(top_p)] if top_p < 1 else []),
    ]
    cumulative = torch.softmax(LogitsProcessorList(steps)(IDS, LOGITS).double(), dim=-1).cumsum(dim=-1)
    level = UNIFORMS * cumulative[:, -1]
    return torch.searchsorted(cumulative, level[:, None], right=True).squeeze(1)


@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.8])
@pytest.mark.parametrize("top_k", [None, 1, 20, 5000])
@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.95, 0.9999, 1.0])
def test_a_draw_is_that_of_transformers_processors(top_k: int | None, top_p: float, penalty: float) -> None:
    sampling = Sampling(0.7, top_p, 9, (0,), 0, top_k, penalty)
    tokens = next_tokens(LOGITS, sampling, UNIFORMS, IDS, ONES)
    assert tokens.tolist() == by_transformers(0.7, top_k, top_p, penalty).tolist()


def test_rows_that_need_more_tokens_than_are_looked_at_first_do_not_change_the_others() -> None:
    together = draw(LOGITS, None, 0.95, UNIFORMS)
    alone = [int(draw(LOGITS[i : i + 1], None, 0.95, UNIFORMS[i : i + 1])) for i in range(ROWS)]
    assert together.tolist() == alone


def test_the_draws_follow_the_probabilities_that_are_kept() -> None:
    shares = torch.tensor([0.05, 0.5, 0.15, 0.3])  # top_p 0.9 keeps 0.5, 0.3 and 0.15, of 0.95
    uniforms = torch.from_numpy(np.random.default_rng(0).random(20_000))
    counts = torch.bincount(draw(shares.log().expand(20_000, 4), None, 0.9, uniforms), minlength=4) / 20_000
    expected = torch.tensor([0.0, 0.5, 0.15, 0.3]) / 0.95
    assert float((counts - expected).abs().max()) < 0.01


def test_the_repetition_penalty_divides_positive_scores_and_multiplies_negative_ones_of_tokens_in_the_row() -> None:
    logits, greedy = torch.tensor([[2.0, 1.9, -1.0, -3.0]]), Sampling(0.0, 1.0, 9, (0,), 0, repetition_penalty=1.5)
    assert next_tokens(logits, greedy, UNIFORMS[:1], torch.tensor([[0, 0]]), torch.ones(1, 2)).tolist() == [1]  # 1.33
    assert next_tokens(logits, greedy, UNIFORMS[:1], torch.tensor([[2, 3]]), torch.ones(1, 2)).tolist() == [0]


def test_padding_is_not_repeated_text() -> None:
    logits, greedy = torch.tensor([[2.0, 1.9]]), Sampling(0.0, 1.0, 9, (0,), 0, repetition_penalty=1.5)
    ids, mask = torch.tensor([[0, 0, 1]]), torch.tensor([[0, 0, 1]])
    assert next_tokens(logits, greedy, UNIFORMS[:1], ids, mask).tolist() == [0]
