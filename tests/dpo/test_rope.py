"""Positions that depend on how long a text is: every text gets its own, whatever is scored beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tasks.core.errors import ConfigError
from tasks.dpo.reference.reference_pass import reference_logps
from tasks.dpo.scoring.scorer import Mechanisms, Scorer
from tasks.pairs.tokens.token_cache import TokenPairs, TokenRow
from tests.dpo import tiny
from tests.dpo.test_families import apart_without_gradient, row
from tests.dpo.test_prefix import apart, relative, scored

LIMIT = 20  # of both families
SHARED, PLAIN = Mechanisms(), Mechanisms(shared_prefix=False)
# below, beyond, across with chosen and with rejected beyond, at the limit and one token beyond it
LENGTHS = ((6, 5, 7), (18, 9, 12), (12, 15, 4), (12, 3, 11), (12, 8, 9), (25, 1, 6))
ROWS = [row(*lengths, seed) for seed, lengths in enumerate(LENGTHS)]
ROWS.append(TokenRow(ROWS[2].prompt, ROWS[3].chosen, ROWS[3].rejected))  # an earlier pair's prompt
PAIRS = TokenPairs.of_rows(ROWS, [f"{i:016x}" for i in range(len(ROWS))], [f"{i:016x}" for i in range(len(ROWS))])


def test_frequencies_are_of_two_kinds_here():
    # the trap: the same tokens get other log-probabilities beside a text beyond the limit
    model, ids = tiny.base("longrope"), torch.randint(3, 97, (1, 10))
    with torch.no_grad():
        alone = model(input_ids=ids).logits
        beside = model(input_ids=torch.nn.functional.pad(ids, (0, LIMIT))).logits[:, :10]
    assert float((alone - beside).abs().max()) > 0.1


@pytest.mark.parametrize("mechanisms", [SHARED, PLAIN], ids=["shared", "plain"])
def test_every_text_is_scored_as_if_alone(mechanisms: Mechanisms):
    model = tiny.base("longrope")
    with Scorer(model, ROWS[:2], mechanisms) as scorer, torch.no_grad():
        assert scorer.is_shared == mechanisms.shared_prefix
        actual = scorer.logps(scorer.lay_out(ROWS))
    assert float((actual - apart_without_gradient(model, ROWS)).abs().max()) < 1e-4


def test_gradients_are_those_of_separate_texts_too():
    model = tiny.moved(tiny.policy("longrope"))
    expected, slopes = apart(model, ROWS)
    actual, gradients = scored(model, ROWS)
    assert float((actual - expected).abs().max()) < 1e-4
    assert relative(gradients, slopes) < 1e-5


@pytest.mark.parametrize("family", ["longrope"])
@pytest.mark.parametrize("budget", [1, 60])
def test_the_reference_does_not_depend_on_the_budget(family: str, budget: int):
    model = tiny.base(family)
    whole, cut = (reference_logps(model, PAIRS, tiny.budget(tokens)).logps for tokens in (65536, budget))
    assert float(np.abs(whole - cut).max()) < 1e-5


def test_the_model_gets_its_own_positions_back():
    model, ids = tiny.base("longrope"), torch.randint(3, 97, (2, 30))
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with Scorer(model, ROWS) as scorer:
            scorer.logps(scorer.lay_out(ROWS))
        after = model(input_ids=ids).logits
    assert torch.equal(before, after)


@pytest.mark.parametrize("mechanisms", [SHARED, PLAIN], ids=["shared", "plain"])
def test_texts_beyond_the_limit_are_refused_where_every_length_has_frequencies_of_its_own(mechanisms: Mechanisms):
    model = tiny.base("dynamic")
    with Scorer(model, ROWS[:1], mechanisms) as scorer, torch.no_grad():
        short = [row(6, 5, 7), row(12, 8, 8)]
        actual = scorer.logps(scorer.lay_out(short))
        with pytest.raises(ConfigError, match=r"`dynamic`.* 20 tokens.*21.*encode.max_prompt_tokens"):
            scorer.lay_out([row(12, 8, 9)])
    assert float((actual - apart_without_gradient(model, short)).abs().max()) < 1e-4


@pytest.mark.parametrize("family", ["llama", "gemma3", "phi3"])
def test_families_of_one_kind_of_positions_have_no_limit(family: str):
    def no_hooks(model: Any) -> bool:
        return not any(module._forward_hooks for name, module in model.named_modules() if "rotary" in name)

    model = tiny.base(family)
    with Scorer(model, ROWS) as scorer:
        assert scorer.lay_out(ROWS).is_long_BL is None
        assert no_hooks(model)
