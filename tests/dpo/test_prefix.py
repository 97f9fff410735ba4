"""Shared rows against separate plain forwards: the same log-probabilities and gradients in every family."""

from __future__ import annotations

import copy
import logging
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.dpo.model.adapter import LoraSettings, adapter_parameters
from tasks.dpo.objective.losses import sigmoid
from tasks.dpo.scoring import attention
from tasks.dpo.scoring.layout import lay_out_shared
from tasks.dpo.scoring.scorer import Mechanisms, Scorer, sum_by_branch
from tasks.pairs.tokens.token_cache import TokenRow
from tests.dpo import tiny

NOTHING = Mechanisms(shared_prefix=False, two_products=False, lean_lora=False, fused=False)
SHARING = tuple(family for family in tiny.KINDS if family not in ("falcon_alibi", "bloom", "mamba", "recurrent_gemma"))
PAIRS = tiny.pairs(5)


def row(prompt: int, chosen: int, rejected: int, seed: int = 0) -> TokenRow:
    numbers = np.random.default_rng(seed)
    return TokenRow(*(numbers.integers(3, tiny.VOCABULARY, n).astype(np.int32) for n in (prompt, chosen, rejected)))


ROWS = [row(11, 7, 9, 1), row(20, 3, 15, 2), row(1, 12, 1, 3), row(9, 1, 8, 4)]
# a second and a third pair that answer the first one's prompt
SAME_PROMPT = [*ROWS, *(TokenRow(ROWS[0].prompt, other.chosen, other.rejected) for other in ROWS[1:3])]


def scored(model: Any, rows: list[TokenRow], mechanisms: Mechanisms | None = None) -> tuple[Tensor, list[Tensor]]:
    """Return token log-probabilities, and the gradients of a DPO loss."""
    model.zero_grad(set_to_none=True)
    with Scorer(model, rows, mechanisms) as scorer:
        assert scorer.is_shared == (mechanisms != NOTHING)
        batch = scorer.lay_out(rows)
        logps = scorer.logps(batch)
        chosen, rejected = sum_by_branch(logps, batch)
        sigmoid(chosen - rejected + 0.3, 0.1).mean().backward()
    return logps.detach(), [parameter.grad.clone() for parameter in adapter_parameters(model)]


def apart(model: Any, rows: list[TokenRow]) -> tuple[Tensor, list[Tensor]]:
    """Return the same from one plain forward a completion, with PEFT's own layers and whole logits, in float64."""
    model = copy.deepcopy(model).double()
    logps, margins = [], []
    for each in rows:
        sums = []
        for completion in (each.chosen, each.rejected):
            ids = torch.from_numpy(np.concatenate([each.prompt, completion]).astype(np.int64))[None]
            logits = model(input_ids=ids, use_cache=False).logits[0, len(each.prompt) - 1 : -1]
            labels = ids[0, len(each.prompt) :, None]
            logps.append(torch.log_softmax(logits, -1).gather(-1, labels).squeeze(-1))
            sums.append(logps[-1].double().sum())
        margins.append(sums[0] - sums[1])
    sigmoid(torch.stack(margins) + 0.3, 0.1).mean().backward()
    return torch.cat(logps).detach(), [parameter.grad.clone() for parameter in adapter_parameters(model)]


def relative(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("rows", [ROWS, SAME_PROMPT], ids=["own prompts", "one prompt for several pairs"])
@pytest.mark.parametrize("family", SHARING)
def test_shared_rows_give_what_separate_forwards_give(family: str, rows: list[TokenRow]):
    model = tiny.moved(tiny.policy(family))
    expected, slopes = apart(model, rows)
    actual, gradients = scored(model, rows)
    assert float((actual - expected).abs().max()) < 1e-4
    assert relative(gradients, slopes) < 1e-5


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_gradient_checkpointing_sees_the_same_segments(family: str):
    model = tiny.moved(tiny.policy(family))
    expected, slopes = apart(model, ROWS)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    actual, gradients = scored(model, ROWS)
    assert float((actual - expected).abs().max()) < 1e-4
    assert relative(gradients, slopes) < 1e-5


def test_permuting_packed_pairs_changes_nothing():
    model, order = tiny.moved(tiny.policy()), [3, 0, 2, 1]
    straight, slopes = scored(model, ROWS)
    permuted, gradients = scored(model, [ROWS[i] for i in order])
    parts = torch.split(straight, [len(each.chosen) + len(each.rejected) for each in ROWS])
    assert float((torch.cat([parts[i] for i in order]) - permuted).abs().max()) < 1e-5
    assert relative(gradients, slopes) < 1e-5


def test_every_distinct_prompt_stands_in_the_row_once():
    batch = lay_out_shared(SAME_PROMPT)
    prompts = sum(len(each.prompt) for each in ROWS)
    completions = [len(part) for each in SAME_PROMPT for part in (each.chosen, each.rejected)]
    # the last token of a completion is predicted and predicts nothing
    assert batch.ids_BL.shape == (1, prompts + sum(completions) - len(completions))
    assert sum(batch.segments.query_lengths) == batch.ids_BL.numel()
    assert len(batch.label_N) == sum(completions)


def test_the_layout_of_two_pairs_by_hand():
    one = TokenRow(*(np.array(part, np.int32) for part in ([5, 6], [7, 12], [8, 9, 13])))
    two = TokenRow(*(np.array(part, np.int32) for part in ([5, 6], [10], [11, 14])))
    batch = lay_out_shared([one, two])
    assert batch.ids_BL.tolist() == [[5, 6, 7, 8, 9, 11]]
    assert batch.position_BL.tolist() == [[0, 1, 2, 2, 3, 2]]
    # [5 6 7], [8 9] and [11]: nothing of 10 stands in the row, the prompt's last token predicts it
    assert batch.segments.query_lengths == (3, 2, 1)
    assert batch.segments.key_lengths == (3, 4, 3)
    assert batch.segments.key_K.tolist() == [0, 1, 2, 0, 1, 3, 4, 0, 1, 5]
    assert batch.label_N.tolist() == [7, 12, 8, 9, 13, 10, 11, 14]
    assert batch.source_N.tolist() == [1, 2, 1, 3, 4, 1, 1, 5]
    assert batch.branch_N.tolist() == [0, 0, 1, 1, 1, 2, 3, 3]


def test_rejected_sees_its_prompt_and_never_chosen():
    model, each = tiny.moved(tiny.policy()), ROWS[1]
    other_chosen = TokenRow(each.prompt, (each.chosen + 1) % tiny.VOCABULARY, each.rejected)
    other_prompt = TokenRow((each.prompt + 1) % tiny.VOCABULARY, each.chosen, each.rejected)
    straight, unseen, seen = (
        scored(model, [given])[0][len(each.chosen) :] for given in (each, other_chosen, other_prompt)
    )
    assert torch.equal(straight, unseen)
    assert float((straight - seen).abs().min()) > 1e-6


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_without_our_attention_a_restarted_row_would_be_wrong(implementation: str):
    # what transformers does by itself with restarting positions and no mask: here is why it is not used
    model, each = tiny.moved(tiny.policy()), ROWS[1]
    batch = lay_out_shared([each])
    model.get_base_model().set_attn_implementation(implementation)
    with torch.no_grad():
        hidden = model.get_base_model().model(input_ids=batch.ids_BL, position_ids=batch.position_BL, use_cache=False)
        logits = model.get_base_model().lm_head(hidden.last_hidden_state[0, batch.source_N])
        naive = torch.log_softmax(logits, -1).gather(-1, batch.label_N[:, None]).squeeze(-1)
    assert float((naive - apart(model, [each])[0]).abs().max()) > 1e-2


@pytest.mark.parametrize(
    ("family", "lora", "why"),
    [
        ("bloom", tiny.LORA, "its attention cannot be replaced"),
        ("falcon_alibi", tiny.LORA, "its attention cannot be replaced"),
        ("mamba", LoraSettings(rank=4, alpha=8, target_modules=("in_proj",)), "attention cannot be replaced|off by"),
        ("recurrent_gemma", tiny.LORA, "cannot be replaced|off by|no"),
    ],
)
def test_families_that_cannot_share_a_row_fall_back_to_plain_rows_and_say_so_once(
    family: str, lora: LoraSettings, why: str, caplog: pytest.LogCaptureFixture
):
    model = tiny.moved(tiny.policy(family, lora=lora))
    expected, slopes = apart(model, ROWS)
    model.zero_grad(set_to_none=True)
    with caplog.at_level(logging.INFO), Scorer(model, ROWS) as scorer:
        assert not scorer.is_shared
        batch = scorer.lay_out(ROWS)
        logps = scorer.logps(batch)
        chosen, rejected = sum_by_branch(logps, batch)
        sigmoid(chosen - rejected + 0.3, 0.1).mean().backward()
    gradients = [parameter.grad for parameter in adapter_parameters(model)]
    assert float((logps.detach() - expected).abs().max()) < 1e-4
    assert relative(gradients, slopes) < 1e-5
    lines = [record.message for record in caplog.records if "plain padded rows" in record.message]
    assert len(lines) == 1
    assert "times the tokens" in lines[0]
    assert re.search(why, lines[0])


def test_a_family_that_mixes_tokens_along_the_row_is_found_by_the_self_test():
    # a convolution over the row: chosen's last tokens would run into rejected's first ones
    class Convolving(torch.nn.Module):
        def forward(self, hidden: Tensor, **_: Any) -> Tensor:
            return hidden + torch.nn.functional.pad(hidden, (0, 0, 1, 0))[:, :-1]

    model = tiny.base()
    model.model.layers[0].mlp = torch.nn.Sequential(model.model.layers[0].mlp, Convolving())
    with Scorer(model, ROWS) as scorer:
        assert not scorer.is_shared


def test_memory_that_runs_out_in_the_self_test_is_not_taken_for_rows_that_cannot_be_shared(
    monkeypatch: pytest.MonkeyPatch,
):
    def run_out(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setitem(attention.KERNELS, "row", run_out)
    with pytest.raises(torch.OutOfMemoryError):
        Scorer(tiny.base(), ROWS)


def test_rows_are_shared_only_where_all_ranks_can(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    model, asked = tiny.base(), []
    implementation = model.config._attn_implementation
    monkeypatch.setattr("tasks.dpo.scoring.scorer.on_all_ranks", lambda flag, _: asked.append(flag))
    with caplog.at_level(logging.INFO), Scorer(model, ROWS) as scorer:
        assert (scorer.is_shared, scorer.kernel) == (False, "")
        assert model.config._attn_implementation == implementation
        actual = scorer.logps(scorer.lay_out(ROWS)).detach()
    assert [line.message for line in caplog.records if "another rank" in line.message] == [
        "another rank cannot share prompts in one row: plain padded rows here too"
    ]
    with Scorer(tiny.base("mamba"), ROWS):
        assert asked == [True, False], "one that cannot says so too"
    with Scorer(tiny.base(), ROWS, Mechanisms(shared_prefix=False)) as scorer:
        assert torch.equal(actual, scorer.logps(scorer.lay_out(ROWS)))


def test_the_model_gets_its_own_attention_and_layers_back():
    model = tiny.moved(tiny.policy())
    inner = model.get_base_model()
    before = inner.config._attn_implementation
    with Scorer(model, ROWS) as scorer:
        assert inner.config._attn_implementation == attention.NAME
        assert scorer.kernel == "row"
    assert inner.config._attn_implementation == before
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("softcap", [0.0, 1.5])
@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_the_flex_kernel_and_the_pieces_agree(key_heads: int, window: int, softcap: float):
    batch = lay_out_shared(SAME_PROMPT)
    total = batch.ids_BL.numel()
    numbers = torch.Generator().manual_seed(0)
    shapes = [(1, heads, total, 16) for heads in (4, key_heads, key_heads)]
    query, key, value = (torch.randn(shape, generator=numbers) for shape in shapes)
    with torch.no_grad():
        pieces, flex = (
            attention.KERNELS[name](query, key, value, batch.segments, 0.25, window, softcap)
            for name in ("pieces", "flex")
        )
    assert pieces.shape == (1, total, 4, 16)
    assert float((pieces - flex).abs().max()) < 1e-5


def test_a_model_that_brings_a_mask_of_its_own_is_refused_rather_than_silently_wrong():
    query = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="neither a mask nor dropout"):
        attention.shared_prefix_attention(torch.nn.Identity(), query, query, query, torch.zeros(1, 1, 3, 3))
