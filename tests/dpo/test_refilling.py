"""Continuous batching gives each prompt the answer that it gets alone, for every family that can be refilled."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tasks.dpo.generation.batchwise import generate_batch
from tasks.dpo.generation.questions import Completion, Request, Sampling, plan_batches
from tasks.dpo.generation.refilling import answer_all, can_refill
from tasks.dpo.generation.stop_texts import StopTexts
from tests.dpo import tiny

SAMPLING = Sampling(0.9, 0.9, 14, (2, 5, 7, 9, 11), 0)
REFILLED = (
    *("llama", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "gpt_neox", "opt", "falcon_alibi", "bloom"),
    *("cohere2", "qwen2_window", "olmo2"),
)
NOT_REFILLED = ("mamba", "recurrent_gemma", "lfm2", "llama4", "longrope", "dynamic")


def requests(count: int = 14) -> list[Request]:
    """Prompts of 1 to 30 tokens, longest first."""
    numbers = np.random.default_rng(0)
    texts = [numbers.integers(3, tiny.VOCABULARY, numbers.integers(1, 31)) for _ in range(count)]
    every = [Request(f"p{i}", 0, tuple(map(int, text))) for i, text in enumerate(texts)]
    return [each for batch in plan_batches(every, 14, 1) for each in batch]


def alone(model: Any, sampling: Sampling, stops: StopTexts | None = None) -> list[Completion]:
    return [generate_batch(model, [each], sampling, "policy", stops=stops)[0] for each in requests()]


class Digits:
    """A tokenizer whose tokens are their numbers, each with a full stop: 12 and 5 are `12.5.`."""

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(f"{token}." for token in ids)


@pytest.mark.parametrize("family", REFILLED)
def test_an_answer_is_the_one_that_its_prompt_gets_alone(family: str) -> None:
    model = tiny.moved(tiny.policy(family))
    assert can_refill(model.get_base_model())
    assert answer_all(model, requests(), SAMPLING, "policy", 200) == alone(model, SAMPLING)


@pytest.mark.parametrize("family", NOT_REFILLED)
def test_a_family_that_keeps_a_state_or_depends_on_the_longest_row_is_answered_batch_by_batch(family: str) -> None:
    assert not can_refill(tiny.base(family))


@pytest.mark.parametrize("budget", [1, 90, 100_000])
@pytest.mark.parametrize("changes", [{}, {"temperature": 0.0}, {"top_k": 5, "repetition_penalty": 1.4, "top_p": 1.0}])
def test_neither_seats_nor_neighbours_change_an_answer(budget: int, changes: dict[str, Any]) -> None:
    model, sampling = tiny.moved(tiny.policy()), dataclasses.replace(SAMPLING, **changes)
    assert answer_all(model, requests(), sampling, "policy", budget) == alone(model, sampling)


def test_a_model_never_gets_a_position_behind_its_last() -> None:
    model = tiny.policy("opt", max_position_embeddings=44)
    answers = answer_all(model, requests(), dataclasses.replace(SAMPLING, eos_token_ids=(2,)), "policy", 150)
    assert max(len(each.ids) for each in requests()) + 14 == 44
    assert {answer.finish for answer in answers} == {"stop", "length"}


def test_the_adapter_is_on_for_the_policy_and_off_for_the_others() -> None:
    model = tiny.moved(tiny.policy())
    greedy = dataclasses.replace(SAMPLING, temperature=0.0)
    policy, reference, control = (
        [each.ids for each in answer_all(model, requests(), greedy, side, 200)]
        for side in ("policy", "reference", "control")
    )
    assert policy != reference == control


def test_a_stop_string_ends_an_answer_in_both_ways_of_answering() -> None:
    model, stops = tiny.moved(tiny.policy()), StopTexts(Digits(), ["3.4", "8"])
    answers = answer_all(model, requests(), SAMPLING, "policy", 200, stops)
    assert answers == alone(model, SAMPLING, stops)
    batches = plan_batches(requests(), 14, 200)
    in_batches = [generate_batch(model, batch, SAMPLING, "policy", stops=stops) for batch in batches]
    assert answers == [each for batch in in_batches for each in batch]
    whole = {answer.prompt_id: Digits().decode(list(answer.ids)) for answer in alone(model, SAMPLING)}
    assert any("3.4" in text or "8" in text for text in whole.values())
    for answer in answers:
        places = [place for stop in ("3.4", "8") if (place := whole[answer.prompt_id].find(stop)) >= 0]
        text = whole[answer.prompt_id][: min(places)] if places else None
        assert answer.text == text
        if text is not None:
            assert answer.finish == "stop"
            assert len(Digits().decode(list(answer.ids))) - len(text) <= 3, "no token but the last goes beyond the text"
