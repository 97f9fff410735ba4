"""The KL divergence to the base: the policy's log-ratios on its own answers, against whole logits of transformers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from tasks.dpo.generation.batchwise import completion, generate_batch
from tasks.dpo.generation.kl_to_base import Key, LogRatio, kl_to_base, log_ratios
from tasks.dpo.generation.questions import Completion, Questions, Request, Sampling
from tasks.dpo.generation.sides import switched_to
from tasks.dpo.generation.stop_texts import StopTexts
from tests.dpo import tiny
from tests.dpo.test_refilling import Digits

SAMPLING = Sampling(1.0, 1.0, 9, (2, 5, 7, 9, 11), 0)
PROMPTS = ((3, 4, 6), (8,), (3, 4, 6, 10, 12, 13), (20, 21))
REQUESTS = [Request(f"p{i}", sample, ids) for i, ids in enumerate(PROMPTS) for sample in range(2)]
QUESTIONS = Questions(REQUESTS, SAMPLING, ("policy",), batch_tokens=60)


def drawn_by(model: Any) -> dict[Key, tuple[int, ...]]:
    answers = [generate_batch(model, [request], SAMPLING, "policy")[0] for request in REQUESTS]
    return {(answer.prompt_id, answer.sample): answer.drawn for answer in answers}


@torch.inference_mode()
def by_whole_logits(model: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
    """Return log π − log π_ref of one answer, by transformers' logits alone."""
    sums = []
    for side in ("policy", "reference"):
        with switched_to(model, side):  # type: ignore[arg-type]
            logits = model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0].double()
        logps = torch.log_softmax(logits, dim=-1)
        sums.append(sum(float(logps[len(prompt) - 1 + i, token]) for i, token in enumerate(answer)))
    return sums[0] - sums[1]


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere2", "gpt_neox", "opt", "recurrent_gemma", "longrope"])
def test_a_log_ratio_is_that_of_whole_logits(family: str):
    model = tiny.moved(tiny.policy(family)).eval()
    drawn = drawn_by(model)
    ratios = log_ratios(model, QUESTIONS, drawn)
    assert set(ratios) == set(drawn)
    for request in REQUESTS:
        key = request.prompt_id, request.sample
        assert ratios[key].nats == pytest.approx(by_whole_logits(model, request.ids, drawn[key]), abs=1e-4)
        assert ratios[key].tokens == len(drawn[key])
    assert any(abs(ratio.nats) > 0.01 for ratio in ratios.values())


def test_an_adapter_that_does_nothing_has_no_divergence():
    model = tiny.policy().eval()
    assert {ratio.nats for ratio in log_ratios(model, QUESTIONS, drawn_by(model)).values()} == {0.0}


def test_the_model_is_left_as_it_was():
    model = tiny.moved(tiny.policy()).eval()
    ids, layers = torch.tensor([[3, 4, 5]]), [type(module) for module in model.modules()]
    before = model(input_ids=ids).logits
    log_ratios(model, QUESTIONS, drawn_by(model))
    assert [type(module) for module in model.modules()] == layers
    assert torch.equal(model(input_ids=ids).logits, before)


def test_a_rank_scores_the_answers_that_it_holds_and_gets_the_same_numbers():
    model = tiny.moved(tiny.policy()).eval()
    drawn = drawn_by(model)
    every = log_ratios(model, QUESTIONS, drawn)
    shares = []
    for batches in (QUESTIONS.batches()[::2], QUESTIONS.batches()[1::2]):
        keys = {(request.prompt_id, request.sample) for batch in batches for request in batch}
        shares.append(log_ratios(model, QUESTIONS, {key: drawn[key] for key in keys}))
    assert all(shares)
    assert shares[0] | shares[1] == every


def test_without_answers_there_are_no_log_ratios():
    assert log_ratios(tiny.policy().eval(), QUESTIONS, {}) == {}


def test_what_was_drawn_has_the_end_token_or_the_stop_string():
    request, stops = Request("p", 0, (1,)), StopTexts(Digits(), (".4",))
    ended, stopped, cut = [
        completion(request, "policy", row, dataclasses.replace(SAMPLING, max_new_tokens=3), with_stops)
        for row, with_stops in (([3, 5, 0], None), ([3, 4, 0], stops), ([3, 4, 6], None))
    ]
    assert ended == Completion("p", "policy", 0, (3,), "stop", None, drawn=(3, 5))
    assert stopped == Completion("p", "policy", 0, (3,), "stop", "3", drawn=(3, 4))
    assert cut == Completion("p", "policy", 0, (3, 4, 6), "length", None, drawn=(3, 4, 6))


def test_samples_of_a_prompt_are_averaged_first_by_hand():
    ratios = {
        ("a", 0): LogRatio(1.0, 4), ("a", 1): LogRatio(3.0, 8),  # 2 nats, 6 tokens
        ("b", 0): LogRatio(4.0, 10), ("b", 1): LogRatio(4.0, 10),  # 4 nats, 10 tokens
        ("c", 0): LogRatio(-1.0, 1), ("c", 1): LogRatio(1.0, 3),  # 0 nats, 2 tokens
    }  # fmt: skip
    # means 2, 4, 0: mean 2, deviation 2, standard error 2 / √3; 18 tokens over three prompts are 6 an answer
    expected = {"per_answer": 2.0, "per_answer_se": float(f"{2 / math.sqrt(3):.4g}"), "per_token": 0.3333}
    assert kl_to_base(ratios) == expected


def test_one_prompt_has_no_standard_error():
    assert kl_to_base({("a", 0): LogRatio(1.5, 3)}) == {"per_answer": 1.5, "per_answer_se": None, "per_token": 0.5}


def test_the_estimate_is_near_the_exact_divergence_of_answers_of_one_token():
    model = tiny.moved(tiny.policy()).eval()
    requests = [Request(f"p{i}", 0, (3, 4, 6)) for i in range(2000)]
    sampling = dataclasses.replace(SAMPLING, max_new_tokens=1)
    drawn = {(one.prompt_id, 0): one.drawn for one in generate_batch(model, requests, sampling, "policy")}
    kl = kl_to_base(log_ratios(model, Questions(requests, sampling, ("policy",), 8000), drawn))
    with torch.inference_mode():
        on = model(input_ids=torch.tensor([[3, 4, 6]])).logits[0, -1].double().log_softmax(-1)
        with switched_to(model, "reference"):
            off = model(input_ids=torch.tensor([[3, 4, 6]])).logits[0, -1].double().log_softmax(-1)
    exact = float((on.exp() * (on - off)).sum())
    assert kl["per_answer"] is not None
    assert kl["per_answer_se"] is not None
    assert abs(kl["per_answer"] - exact) < 4 * kl["per_answer_se"]
    assert kl["per_answer_se"] < exact
