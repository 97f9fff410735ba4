"""The demo's pairs: deterministic, distinct, and right about what is better."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from tasks.core.params import load_section
from tasks.demo.preferences.preferences import demo_rows
from tasks.demo.world.replies import CURT_PHRASES, EMPATHY, FAULTS, OWNERSHIP
from tasks.demo.world.world import NAMES, PROBLEMS, PRODUCTS, TOPIC_WORDS, topic_words
from tasks.judges.protocol.protocol import Answer
from tasks.judges.rules.rules import RuleScorer
from tasks.winrate import WinrateConfig
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return list(demo_rows(1400, 0))


def texts(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["prompt"][-1]["content"], row["chosen"][-1]["content"], row["rejected"][-1]["content"]


def holds(text: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in text.lower() for phrase in phrases)


def sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"[.!?]", text) if part.strip()]


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    assert list(demo_rows(50, 4)) == list(demo_rows(50, 4))
    first, second = ({texts(row)[0] for row in demo_rows(50, seed)} for seed in (4, 5))
    assert not first & second


def test_more_rows_keep_the_rows_that_were_there() -> None:
    assert list(itertools.islice(demo_rows(300, 4), 40)) == list(demo_rows(40, 4))


def test_no_prompt_comes_twice(rows: list[dict[str, Any]]) -> None:
    assert len({texts(row)[0] for row in rows}) == len(rows) == 1400


def test_rows_are_one_user_turn_and_two_assistant_turns(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert set(row) == {"prompt", "chosen", "rejected", "slice"}
        assert [message["role"] for key in ("prompt", "chosen", "rejected") for message in row[key]] == [
            "user", "assistant", "assistant",
        ]  # fmt: skip
    assert {row["slice"] for row in rows} == {problem.slice for problem in PROBLEMS}


def test_prompts_cover_most_combinations_of_product_and_problem(rows: list[dict[str, Any]]) -> None:
    named = [topic_words(texts(row)[0]) for row in rows]
    assert all(len(words) == 2 for words in named)
    assert len(PRODUCTS) * len(PROBLEMS) == 240
    assert len({frozenset(words) for words in named}) > 230


def test_every_chosen_reply_is_warm_on_topic_and_stops_in_time(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        prompt, chosen, _ = texts(row)
        assert holds(chosen, EMPATHY)
        assert holds(chosen, OWNERSHIP)
        assert not holds(chosen, CURT_PHRASES)
        assert topic_words(chosen) == topic_words(prompt), chosen
        assert 2 <= len(sentences(chosen)) <= 3
        assert 20 <= len(chosen.split()) <= 45


def test_every_chosen_reply_calls_the_customer_by_name_and_promises_the_step_that_fits(
    rows: list[dict[str, Any]],
) -> None:
    for row in rows:
        prompt, chosen, _ = texts(row)
        name = next(name for name in NAMES if re.search(rf"\b{name}\b", prompt))
        assert re.search(rf"\b{name}\b", chosen)
        problem = next(problem for problem in PROBLEMS if problem.word in topic_words(prompt))
        assert set(problem.step_words) & set(re.findall(r"\w+", chosen))


def test_every_rejected_reply_fails_in_tone_topic_or_stopping(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        prompt, _, rejected = texts(row)
        is_cold = not (holds(rejected, EMPATHY) and holds(rejected, OWNERSHIP)) or holds(rejected, CURT_PHRASES)
        is_off_topic = topic_words(rejected) != topic_words(prompt)
        goes_on = len(set(sentences(rejected))) < len(sentences(rejected))
        assert is_cold or is_off_topic or goes_on, rejected


def test_each_way_to_fail_is_frequent(rows: list[dict[str, Any]]) -> None:
    cold = sum(holds(texts(row)[2], CURT_PHRASES) for row in rows)
    other = sum(bool(topic_words(texts(row)[2]) - topic_words(texts(row)[0])) for row in rows)
    long = sum(len(sentences(texts(row)[2])) > 4 for row in rows)
    nothing = sum(not topic_words(texts(row)[2]) for row in rows)
    assert len(FAULTS) == 8
    for count in (cold, other, long, nothing):
        assert count > 0.15 * len(rows)


def test_replies_use_a_topic_word_only_to_name_the_topic() -> None:
    from tasks.demo.world import replies

    fixed = [*replies.CLOSINGS, *replies.DISMISSALS, *replies.DIGRESSIONS, *replies.VAGUE_OPENINGS]
    fixed += [*replies.VAGUE_BODIES, *replies.VAGUE_ENDINGS, *replies.OPENINGS, *replies.PROMISES, *replies.BLAME]
    assert not any(topic_words(sentence) for sentence in fixed)
    assert len(set(TOPIC_WORDS)) == len(TOPIC_WORDS) == 32
    for problem in PROBLEMS:
        told = (*problem.complaints, *problem.steps, problem.trouble)
        assert all(topic_words(text) <= {problem.word} for text in told)
        assert all(problem.word in topic_words(text) for text in (*problem.complaints, problem.trouble))


def test_the_demo_s_rules_prefer_the_chosen_reply_in_every_pair(rows: list[dict[str, Any]]) -> None:
    config = load_section(ROOT / "params.yaml", "winrate", WinrateConfig)
    judge = RuleScorer(config.rules, config.tie_margin)
    for row in rows:
        prompt, chosen, rejected = texts(row)
        better, worse = (judge.rule_scores(prompt, Answer(text, "stop")).total for text in (chosen, rejected))
        assert better > 0.99
        assert better - worse > config.tie_margin, rejected
