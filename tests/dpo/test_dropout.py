"""Dropout that belongs to the token: random enough, and the same however a step is cut."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from tasks.dpo.capacity.memory import Recompute
from tasks.dpo.model.adapter import LoraSettings, adapter_parameters
from tasks.dpo.scoring.dropout import TokenDropout, dropped, factors
from tasks.dpo.scoring.layout import lay_out_plain, lay_out_shared
from tasks.dpo.scoring.lora import drawing_by_batch
from tasks.dpo.scoring.scorer import Mechanisms, Scorer
from tasks.dpo.training.activation_checkpointing import set_modes
from tasks.pairs.tokens.token_cache import TokenPairs, TokenRow
from tests.dpo import tiny

HALF = LoraSettings(rank=4, alpha=8, dropout=0.5)
CONFIG = tiny.config(pairs_per_step=8, lora=HALF)
PAIRS = tiny.pairs(16)
HASHES = torch.from_numpy(np.random.default_rng(0).integers(-(2**31), 2**31, 3000).astype(np.int32))


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9])
def test_about_the_share_is_dropped_and_the_rest_makes_up_for_it(share: float):
    actual = factors(HASHES, 7, 64, share, torch.float32)
    assert float((actual == 0).float().mean()) == pytest.approx(share, abs=0.005)
    assert float(actual.max()) == pytest.approx(1 / (1 - share))
    # over the tokens of each feature, and over the features of each token
    assert float((actual == 0).float().mean(0).std()) == pytest.approx((share * (1 - share) / 3000) ** 0.5, rel=0.4)
    assert float((actual == 0).float().mean(1).std()) == pytest.approx((share * (1 - share) / 64) ** 0.5, rel=0.2)


def test_tokens_features_layers_and_steps_have_nothing_to_do_with_each_other():
    source = TokenDropout()
    source.follow(HASHES)
    masks = []
    for step in (0, 1):
        source.begin(seed=42, step=step)
        masks += [factors(source.hashes(3000), layer, 64, 0.5, torch.float32) for layer in (1, 2)]
    for i, one in enumerate(masks):
        assert abs(correlation(one[1:], one[:-1])) < 0.02
        assert abs(correlation(one[:, 1:], one[:, :-1])) < 0.02
        for other in masks[:i]:
            assert abs(correlation(one, other)) < 0.02


def test_backward_drops_what_forward_dropped():
    x = torch.randn(3000, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    left = dropped(x, HASHES, 3, 0.5)
    (slope,) = torch.autograd.grad(left.sum(), x)
    assert torch.equal(left.detach(), x.detach() * slope)


def test_a_tokens_hash_is_of_its_text_and_its_place():
    row = TokenRow(*(np.array(part, np.int32) for part in ([5, 6], [7, 12, 4], [7, 12, 9])))
    alone, twice = lay_out_shared([row]), lay_out_shared([tiny.pairs(1).row(0), row])
    assert twice.hash_T[-6:].tolist() == alone.hash_T.tolist()
    assert len(set(alone.hash_T.tolist())) == 6, "two completions that begin alike are two texts"
    plain = lay_out_plain([row]).hash_T.view(2, 5)
    assert plain[0, :4].tolist() == alone.hash_T[:4].tolist()
    assert plain[1, :4].tolist() == alone.hash_T[[0, 1, 4, 5]].tolist()


def drawn(mechanisms: Mechanisms | None = None, level: Recompute = Recompute.NONE, family: str = "llama") -> list[Any]:
    """Return log-probabilities and gradients of a step that drops half."""
    model = tiny.moved(tiny.policy(family, lora=HALF))
    set_modes(model, level)
    rows = [PAIRS.row(i) for i in range(6)]
    with Scorer(model, rows, mechanisms) as scorer:
        scorer.dropout.begin(1, 2)
        logps = scorer.logps(scorer.lay_out(rows))
        logps.square().sum().backward()
    return [logps.detach(), *(p.grad for p in adapter_parameters(model))]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "opt"])
def test_what_is_dropped_does_not_depend_on_the_layout_or_on_what_is_computed_again(family: str):
    expected = drawn(family=family)
    still = drawn(Mechanisms(shared_prefix=False), family=family)
    assert float((expected[0] - tiny_still(family)).abs().max()) > 1e-2
    for actual in (still, *(drawn(level=level, family=family) for level in (Recompute.SELECTIVE, Recompute.FULL))):
        for a, b in zip(actual, expected, strict=True):
            assert float((a - b).abs().max() / b.abs().max()) < 1e-4


def tiny_still(family: str) -> torch.Tensor:
    """Return the log-probabilities without dropout."""
    model, rows = tiny.moved(tiny.policy(family)), [PAIRS.row(i) for i in range(6)]
    with Scorer(model, rows) as scorer:
        return scorer.logps(scorer.lay_out(rows)).detach()


@pytest.mark.parametrize("loss", ["sigmoid", "aot"])
def test_the_token_budget_changes_nothing(loss: str):
    config = tiny.changed(CONFIG, loss=loss)
    # pairs that answer one prompt are scored together or apart, as the budget has it
    rows = [TokenRow(PAIRS.row(i // 3 * 3).prompt, PAIRS.row(i).chosen, PAIRS.row(i).rejected) for i in range(16)]
    names = [f"{i:016x}" for i in range(16)]
    pairs = TokenPairs.of_rows(rows, names, names)
    runs = [
        tiny.run(pairs, config, tiny.budget(tokens), model=tiny.moved(tiny.policy(lora=HALF)))
        for tokens in (1, 90, 9999)
    ]
    for result, _ in runs[1:]:
        assert tiny.gap(runs[0][0], result) < 1e-5
    without = dataclasses.replace(HALF, dropout=0.0)
    still, _ = tiny.run(pairs, tiny.changed(config, lora=without), model=tiny.moved(tiny.policy(lora=without)))
    assert tiny.gap(runs[0][0], still) > 1e-3


def test_every_step_drops_something_else():
    config = tiny.changed(CONFIG, learning_rate=1e-12, pairs_per_step=16, epochs=3)
    result, _ = tiny.run(PAIRS, config, model=tiny.moved(tiny.policy(lora=HALF)))
    losses = [row["loss"] for row in result.steps]
    assert len(losses) == 3
    assert min(abs(a - b) for a, b in itertools.pairwise(losses)) > 1e-4


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=tiny.VOCABULARY, n_embd=32, n_layer=2, n_head=4))


@pytest.mark.parametrize(
    ("base", "options", "count"),
    [
        (tiny.base, {"target_modules": ["q_proj", "v_proj"]}, 0),
        (tiny.base, {"target_modules": ["v_proj", "lm_head"]}, 1),
        (tiny.base, {"target_modules": ["v_proj", "embed_tokens"]}, 0),
        (tiny.base, {"target_modules": ["v_proj"], "use_dora": True}, 2),
        (gpt2, {"target_modules": ["c_attn"], "fan_in_fan_out": True}, 2),
    ],
    ids=["plain", "head", "embedding", "DoRA", "Conv1D"],
)
def test_layers_that_keep_pefts_own_dropout_are_counted(base: Any, options: dict[str, Any], count: int):
    for share in (0.5, 0.0):
        with Scorer(get_peft_model(base(), LoraConfig(r=4, lora_dropout=share, **options))) as scorer:
            assert drawing_by_batch(scorer.model) == (count if share else 0)


@pytest.mark.parametrize("layers", [("v_proj",), ("v_proj", "lm_head")], ids=" ".join)
def test_training_says_in_one_line_where_dropout_depends_on_the_token_budget(
    layers: tuple[str, ...], caplog: pytest.LogCaptureFixture
):
    config = tiny.changed(CONFIG, lora=dataclasses.replace(HALF, target_modules=layers))
    with caplog.at_level(logging.INFO, "tasks.dpo"):
        tiny.run(tiny.pairs(4), config)
    messages = [record.getMessage() for record in caplog.records if "dropout" in record.getMessage()]
    assert messages == [
        "1 adapted layer draws its dropout by micro-batch (the head, or no plain linear layer): "
        "results depend on `runtime.tokens_per_micro_batch` and on the number of ranks"
    ] * ("lm_head" in layers)
