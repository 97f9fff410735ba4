"""Replies that answer nothing: recognised by their words, in wordings that the classifier did not see."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from tasks.judges.models.constructed_replies import KINDS
from tasks.judges.models.linear_head import FOLDS, Head
from tasks.judges.models.non_answers import MOST_FLAGGED, NonAnswers, fit_non_answers, word_counts
from tasks.judges.models.own_judge_file import OwnModel
from tasks.judges.qualification.canaries import CANARIES
from tests.judges.models.conftest import made_up_pairs


@pytest.fixture(scope="module")
def fitted() -> tuple[NonAnswers, np.ndarray, list[str]]:
    replies = [row[name] for row in made_up_pairs(200) for name in ("chosen", "rejected")]
    made = [(kind.reply(n % FOLDS, random.Random(n)), n % FOLDS) for kind in KINDS.values() for n in range(100)]
    folds = np.arange(len(replies)) % FOLDS
    line, flagged = fit_non_answers(replies, folds, [text for text, _ in made], np.array([fold for _, fold in made]))
    return line, flagged, replies


def test_canaries_are_flagged_and_real_replies_are_not(fitted: tuple[NonAnswers, np.ndarray, list[str]]) -> None:
    line, flagged, replies = fitted
    assert line.flags(list(CANARIES.values())) == [True] * len(CANARIES)
    assert np.mean(line.flags(replies)) <= MOST_FLAGGED
    assert flagged[: len(replies)].mean() <= MOST_FLAGGED
    assert flagged[len(replies) :].mean() > 0.9, "with cores that the classifier was not fitted on"


def test_a_reply_that_begins_like_a_refusal_and_helps_is_an_answer(
    fitted: tuple[NonAnswers, np.ndarray, list[str]],
) -> None:
    text = "I'm sorry about the lamp. We will send a new lamp today and it is with you tomorrow, as the order says."
    assert fitted[0].flags([text]) == [False]


@pytest.mark.parametrize("text", ["", " ", "...", "?!", "\n"])
def test_a_reply_without_a_letter_answers_nothing(text: str) -> None:
    assert NonAnswers(np.zeros(0, np.float32)) != text
    assert NonAnswers(np.full(word_counts([""]).shape[1], -1, np.float32)).flags([text, "42"]) == [True, False]


def test_no_constructed_reply_is_a_canary() -> None:
    made = {kind.reply(n % FOLDS, random.Random(n)) for kind in KINDS.values() for n in range(500)}
    assert not made & set(CANARIES.values())
    assert len(made) > 200


def test_a_core_belongs_to_one_fold() -> None:
    for wording in KINDS.values():
        texts = [{wording.reply(fold, random.Random(n)) for n in range(200)} for fold in range(FOLDS)]
        cores = [{core for core in wording.cores if any(core in text for text in each)} for each in texts]
        assert sum(map(len, cores)) == len(set().union(*cores)) == len(wording.cores)


def test_what_is_fitted_comes_back_from_its_file_and_equal_ones_are_equal_bytes(tmp_path: Path) -> None:
    head = Head(np.array([1.0, -2.0], np.float32), 0.5, -2.0, 2.0)
    model = OwnModel(head, NonAnswers(np.array([3.0], np.float32)), {"pairs": 7, "base": "b"})
    for name in ("a", "b"):
        model.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert OwnModel.load(tmp_path / "a").digest == model.digest
