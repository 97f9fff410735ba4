"""Loss and gradients against a DPO written here in twenty lines: one sequence at a time, whole logits."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

from tasks.core.errors import DataError
from tasks.dpo.model.adapter import LoraSettings, adapter_parameters
from tasks.dpo.reference.reference_pass import reference_logps
from tasks.dpo.scoring.head import FrozenHead, GeneralHead
from tasks.dpo.scoring.layout import lay_out_plain, lay_out_shared
from tasks.dpo.scoring.scorer import Mechanisms, Scorer, sum_by_branch
from tasks.dpo.training.train_config import TrainConfig
from tasks.dpo.training.trainer import train
from tasks.dpo.training.training_curves import TrainResult
from tasks.pairs.tokens.token_cache import TokenPairs, TokenRow
from tests.dpo import tiny

PAIRS = tiny.pairs(5)


def plain_logp(model: Any, prompt: np.ndarray, completion: np.ndarray) -> torch.Tensor:
    ids = torch.from_numpy(np.concatenate([prompt, completion]).astype(np.int64))[None]
    logps = torch.log_softmax(model(input_ids=ids).logits[0].double(), dim=-1)
    return sum(logps[len(prompt) + i - 1, int(token)] for i, token in enumerate(completion))


def plain_dpo(model: Any, pairs: TokenPairs, config: TrainConfig) -> torch.Tensor:
    loss, nll, tokens = 0.0, 0.0, 0
    for i in range(len(pairs)):
        row = pairs.row(i)
        policy = [plain_logp(model, row.prompt, completion) for completion in (row.chosen, row.rejected)]
        with torch.no_grad(), model.disable_adapter():
            reference = [plain_logp(model, row.prompt, completion) for completion in (row.chosen, row.rejected)]
        z = config.objective.beta * ((policy[0] - reference[0]) - (policy[1] - reference[1]))
        loss -= (1 - config.objective.label_smoothing) * F.logsigmoid(
            z
        ) + config.objective.label_smoothing * F.logsigmoid(-z)
        nll, tokens = nll - policy[0], tokens + len(row.chosen)
    return loss / len(pairs) + config.objective.nll_weight * nll / tokens


def one_step(
    model: Any, pairs: TokenPairs, config: TrainConfig, tokens: int = 128, **runtime: Any
) -> tuple[TrainResult, list[torch.Tensor]]:
    """Take one optimizer step over all pairs; return the result and the gradients as they were before it."""
    found: dict[int, torch.Tensor] = {}
    parameters = adapter_parameters(model)
    for i, parameter in enumerate(parameters):
        parameter.register_post_accumulate_grad_hook(lambda p, i=i: found.__setitem__(i, p.grad.clone()))
    scored = reference_logps(model, pairs)
    result = train(model, scored, scored, config, tiny.budget(tokens, **runtime))
    return result, [found[i] for i in range(len(parameters))]


def relative(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Return the largest error of a tensor, relative to the tensor's largest entry."""
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-8)) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2, "nll_weight": 0.7}], ids=["dpo", "smoothed+nll"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_loss_and_gradients_equal_a_plain_dpo(family: str, options: dict[str, float]):
    config = tiny.config(beta=0.3, pairs_per_step=5, max_grad_norm=1e9, lora=tiny.LORA, **options)
    model = tiny.moved(tiny.policy(family))
    loss = plain_dpo(model, PAIRS, config)
    expected = list(torch.autograd.grad(loss, adapter_parameters(model)))
    result, gradients = one_step(model, PAIRS, config)
    step = result.steps[0]
    assert step["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert result.before["loss"] == pytest.approx(step["loss"], rel=1e-6), "held out are the same pairs"
    assert abs(step["loss"] - math.log(2)) > 1e-3, "the policy is not the reference here"
    assert relative(gradients, expected) < 1e-5
    norm = torch.cat([gradient.reshape(-1) for gradient in expected]).norm()
    assert step["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_an_adapter_on_the_head_is_scored_with_it():
    lora = LoraSettings(rank=4, alpha=8, target_modules=("q_proj", "lm_head"))
    config = tiny.config(pairs_per_step=5, max_grad_norm=1e9, lora=lora)
    model = tiny.moved(tiny.policy(lora=lora))
    expected = list(torch.autograd.grad(plain_dpo(model, PAIRS, config), adapter_parameters(model)))
    assert relative(one_step(model, PAIRS, config)[1], expected) < 1e-5


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "opt"])
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(family: str):
    config = tiny.config(pairs_per_step=5, max_grad_norm=1e9, lora=tiny.LORA)
    straight, expected = one_step(tiny.moved(tiny.policy(family)), PAIRS, config)
    again, gradients = one_step(tiny.moved(tiny.policy(family)), PAIRS, config, gradient_checkpointing=True)
    assert tiny.gap(straight, again) < 1e-6
    assert relative(gradients, expected) < 1e-5


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_frozen_head_is_scored_without_whole_logits(family: str):
    with Scorer(tiny.base(family)) as scorer:
        assert type(scorer.head) is FrozenHead


def test_a_head_with_an_adapter_takes_the_general_path():
    with Scorer(tiny.policy(lora=LoraSettings(rank=4, alpha=8, target_modules=("lm_head",)))) as scorer:
        assert type(scorer.head) is GeneralHead


@pytest.mark.parametrize("cap", [30.0, 1.0])
def test_an_unknown_change_of_the_logits_is_noticed_even_on_small_ones(cap: float):
    class Capped(LlamaForCausalLM):
        def forward(self, **inputs: Any) -> Any:
            out = super().forward(**inputs)
            out.logits = cap * torch.tanh(out.logits / cap)
            return out

    torch.manual_seed(0)
    model = Capped(tiny.base(initializer_range=0.1).config).eval()
    with Scorer(model) as scorer, torch.no_grad():
        assert scorer.head is None
        assert not scorer.is_shared
        row = PAIRS.row(0)
        logps = scorer.logps(scorer.lay_out([row]))
    assert float(logps[: len(row.chosen)].sum()) == pytest.approx(
        float(plain_logp(model, row.prompt, row.chosen).detach()), abs=1e-4
    )


@pytest.mark.parametrize("tokens", [1, 60, 65536])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_before_the_first_step_the_loss_is_ln_2_for_every_batch_shape(family: str, tokens: int):
    config = tiny.config(pairs_per_step=4, lora=tiny.LORA)
    result, _ = tiny.run(tiny.pairs(9), config, tiny.budget(tokens), family=family)
    assert result.before["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert result.steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert result.before["accuracy"] == 0.5


def log_ratios(model: Any, pairs: TokenPairs, together: int) -> list[float]:
    """Return every branch's log-ratio, with ``together`` pairs a forward; the reference has its own shapes."""
    scored, found = reference_logps(model, pairs, tiny.budget(64)), []
    with Scorer(model) as scorer, torch.no_grad():
        for start in range(0, len(pairs), together):
            rows = np.arange(start, min(start + together, len(pairs)))
            batch = scorer.lay_out([pairs.row(int(row)) for row in rows])
            sums = sum_by_branch(scorer.logps(batch), batch)
            for policy, reference in zip(sums, scored.sums(rows), strict=True):
                found += (policy - reference).tolist()
    return found


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_before_the_first_step_every_pairs_log_ratio_is_zero(family: str):
    assert max(map(abs, log_ratios(tiny.policy(family), tiny.pairs(9), together=3))) < 1e-4


def test_the_log_ratio_of_a_long_answer_is_zero_too():
    # 3,000 tokens of some -6 nats: float32 keeps 1e-3 of such a sum, which would be a log-ratio of its own
    numbers = np.random.default_rng(0)
    parts = [numbers.integers(3, tiny.VOCABULARY, length).astype(np.int32) for length in (5, 3000, 700)]
    pairs = TokenPairs.of_rows([TokenRow(*parts)], ["a"], ["a"])
    assert max(map(abs, log_ratios(tiny.policy(), pairs, together=1))) < 1e-4


PLAIN = Mechanisms(shared_prefix=False)


def logps_of(model: Any, rows: list[TokenRow], mechanisms: Mechanisms) -> torch.Tensor:
    with Scorer(model, rows, mechanisms) as scorer, torch.no_grad():
        assert scorer.is_shared == mechanisms.shared_prefix
        return scorer.logps(scorer.lay_out(rows))


@pytest.mark.parametrize("mechanisms", [Mechanisms(), PLAIN], ids=["shared", "plain"])
def test_what_else_is_in_the_batch_changes_nothing(mechanisms: Mechanisms):
    model, rows = tiny.moved(tiny.policy()), [PAIRS.row(i) for i in range(5)]
    long = TokenRow(*(np.full(60, 5, np.int32) for _ in range(3)))
    narrow = logps_of(model, rows, mechanisms)
    wide = logps_of(model, [*rows, long], mechanisms)[: len(narrow)]
    assert float((narrow - wide).abs().max()) < 1e-5


def test_the_tokens_behind_an_end_do_not_reach_it():
    row = PAIRS.row(0)
    with Scorer(tiny.base(), mechanisms=PLAIN) as scorer, torch.no_grad():
        batch = scorer.lay_out([row, TokenRow(*(np.full(30, 5, np.int32) for _ in range(3)))])
        others = batch.ids_BL.clone()
        others[0, len(row.prompt) + len(row.chosen) :] = 50
        changed = dataclasses.replace(batch, ids_BL=others)
        one, two = (scorer.logps(b)[: len(row.chosen)] for b in (batch, changed))
    assert torch.equal(one, two)


@pytest.mark.parametrize("mechanisms", [Mechanisms(), PLAIN], ids=["shared", "plain"])
def test_rejected_does_not_depend_on_chosen(mechanisms: Mechanisms):
    model, row = tiny.moved(tiny.policy()), PAIRS.row(1)
    other = TokenRow(row.prompt, (row.chosen + 1) % tiny.VOCABULARY, row.rejected)
    one, two = (logps_of(model, [r], mechanisms)[len(row.chosen) :] for r in (row, other))
    assert torch.equal(one, two)


@pytest.mark.parametrize("mechanisms", [Mechanisms(), PLAIN], ids=["shared", "plain"])
def test_the_end_of_text_token_is_scored_even_where_it_is_also_the_padding(mechanisms: Mechanisms):
    model, end = tiny.base(), 0  # id 0 pads the batch
    row = TokenRow(*(np.array(part, np.int32) for part in ([5, 6], [7, end], [8, 9, 10, end])))
    logps = logps_of(model, [row], mechanisms)
    assert len(logps) == 6
    expected = plain_logp(model, row.prompt, row.chosen[:1]), plain_logp(model, row.prompt, row.chosen)
    assert float(logps[1]) == pytest.approx(float(expected[1] - expected[0]), abs=1e-5)


@pytest.mark.parametrize("mechanisms", [Mechanisms(), PLAIN], ids=["shared", "plain"])
def test_permuting_the_pairs_of_a_batch_changes_nothing(mechanisms: Mechanisms):
    order = [3, 0, 4, 2, 1]
    with Scorer(tiny.moved(tiny.policy()), mechanisms=mechanisms) as scorer, torch.no_grad():
        batch, permuted = (scorer.lay_out([PAIRS.row(i) for i in rows]) for rows in (range(5), order))
        one, two = (sum_by_branch(scorer.logps(b), b) for b in (batch, permuted))
    for a, b in zip(one, two, strict=True):
        assert float((a[order] - b).abs().max()) < 1e-5


@pytest.mark.parametrize("lay_out", [lay_out_plain, lay_out_shared])
@pytest.mark.parametrize("hollow", [0, 1, 2], ids=["prompt", "chosen", "rejected"])
def test_a_pair_without_tokens_is_refused(hollow: int, lay_out: Any):
    parts = [np.array([5, 6], np.int32)] * 3
    parts[hollow] = parts[hollow][:0]
    with pytest.raises(DataError, match="empty prompt, chosen or rejected"):
        lay_out([TokenRow(*parts)])
