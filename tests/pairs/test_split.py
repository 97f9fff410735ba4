"""The split: by prompt, stable, and of about the share asked for."""

from __future__ import annotations

import pytest

from tasks.core.errors import DataError
from tasks.pairs.ingestion.split import is_held_out, split_pairs
from tasks.pairs.record.pair import Pair
from tests.pairs.samples import chat


def many(count: int) -> list[Pair]:
    return [Pair(f"Question {i // 3}", f"yes {i}", f"no {i}") for i in range(count)]


def test_no_prompt_stands_on_both_sides_and_no_pair_is_lost() -> None:
    train, test = split_pairs(many(3000), 0.2)
    assert len(train) + len(test) == 3000
    assert not {pair.prompt_id for pair in train} & {pair.prompt_id for pair in test}


def test_the_share_is_about_the_one_asked_for() -> None:
    _, test = split_pairs(many(30000), 0.1)
    # 10,000 prompts at 0.1: standard deviation 0.003
    assert abs(len(test) / 30000 - 0.1) < 0.012


def test_new_data_never_move_old_pairs() -> None:
    old_train, old_test = split_pairs(many(900), 0.1)
    train, test = split_pairs(reversed([Pair(chat("New"), "a", "b"), *many(3000)]), 0.1)
    assert set(old_train) <= set(train)
    assert set(old_test) <= set(test)


def test_raising_the_share_only_adds_to_the_test_set() -> None:
    small, large = (set(split_pairs(many(3000), share)[1]) for share in (0.1, 0.2))
    assert small < large


def test_another_seed_holds_out_other_prompts() -> None:
    first, second = ([is_held_out(f'"{i}"', 0.5, seed) for i in range(100)] for seed in (0, 1))
    assert first != second


def test_an_empty_side_is_an_error_that_names_it() -> None:
    with pytest.raises(DataError, match="the test set is empty"):
        split_pairs(many(3), 1e-9)
    with pytest.raises(DataError, match="the training set is empty"):
        split_pairs(many(3), 1 - 1e-9)
