"""The plan: which pairs make up a step, how a step is cut, and who does which part."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tasks.dpo.capacity.step_plan import Plan, Sizes, micro_batches, share
from tasks.pairs.tokens.token_cache import TokenPairs, TokenRow


def rows_of(plan: Plan, epoch: int) -> list[list[int]]:
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    return [plan.rows(step).tolist() for step in steps]


@pytest.mark.parametrize(("pairs", "per_step"), [(23, 5), (20, 5), (3, 16), (1, 1), (7, 1)])
def test_each_pair_comes_once_an_epoch(pairs: int, per_step: int):
    plan = Plan(pairs, per_step, epochs=3, seed=7)
    for epoch in range(3):
        parts = rows_of(plan, epoch)
        assert sorted(row for part in parts for row in part) == list(range(pairs))
        assert [len(part) for part in parts[:-1]] == [per_step] * (len(parts) - 1)
        assert len(parts[-1]) == (pairs % per_step or per_step)
    assert plan.steps == 3 * plan.steps_per_epoch == 3 * -(-pairs // per_step)


def test_the_plan_is_a_pure_function_of_its_fields():
    def order(plan: Plan) -> list[list[int]]:
        return [plan.rows(step).tolist() for step in range(plan.steps)]

    forwards = order(Plan(23, 5, 2, 7))
    backwards = [Plan(23, 5, 2, 7).rows(step).tolist() for step in reversed(range(10))]
    assert forwards == backwards[::-1]
    assert forwards != order(Plan(23, 5, 2, 8))


def test_epochs_have_orders_of_their_own():
    plan = Plan(50, 5, 2, 7)
    assert rows_of(plan, 0) != rows_of(plan, 1)


def test_the_order_does_not_change_when_more_epochs_are_asked_for():
    assert rows_of(Plan(23, 5, 1, 7), 0) == rows_of(Plan(23, 5, 4, 7), 0)


@pytest.fixture(params=[True, False], ids=["shared", "plain"])
def sizes(request: pytest.FixtureRequest) -> Sizes:
    """200 pairs of unequal lengths, every third with the prompt of the one before."""
    lengths = np.random.default_rng(0).integers(5, 200, (200, 3))
    prompt_of = np.arange(200)
    prompt_of[2::3] = prompt_of[1::3][: len(prompt_of[2::3])]
    lengths[2::3, 0] = lengths[1::3, 0][: len(prompt_of[2::3])]
    return Sizes(lengths, prompt_of, request.param)


def test_the_size_of_shared_rows_counts_every_prompt_once():
    sizes = Sizes(np.array([[10, 3, 4], [10, 5, 6], [7, 1, 2]]), np.array([0, 0, 1]), is_shared=True)
    assert sizes.tokens(np.array([0, 1, 2])) == 10 + 3 + 4 + 5 + 6 + 7 + 1 + 2
    # padded: the widest branch has 16 tokens, six sequences of it
    assert dataclasses.replace(sizes, is_shared=False).tokens(np.array([0, 1, 2])) == 6 * 16


def test_prompts_are_one_where_their_tokens_are_and_not_where_only_their_text_is():
    rows = [
        TokenRow(*(np.array(part, np.int32) for part in parts))
        for parts in (([1, 2], [3], [4]), ([1, 2], [5], [6]), ([1], [2, 7], [2, 8]), ([9], [3], [4]))
    ]
    tokens = TokenPairs.of_rows(rows, ["a", "b", "c", "d"], ["p", "p", "p", "q"])
    numbers = Sizes.of(tokens, is_shared=True).prompt_of
    assert numbers[0] == numbers[1]
    assert len(set(numbers.tolist())) == 3


@pytest.mark.parametrize("budget", [1, 100, 799, 1600, 10**6])
@pytest.mark.parametrize("at_least", [1, 3, 300])
def test_micro_batches_cover_the_step_within_the_budget(sizes: Sizes, budget: int, at_least: int):
    rows = Plan(200, 37, 1, 0).rows(2)
    batches = micro_batches(rows, sizes, budget, at_least)
    assert sorted(np.concatenate(batches).tolist()) == sorted(rows.tolist())
    for batch in batches:
        assert len(batch) == 1 or sizes.tokens(batch) <= budget
    assert len(batches) >= min(at_least, 37)


def test_pairs_of_one_prompt_stay_together_where_they_fit(sizes: Sizes):
    batches = micro_batches(np.arange(200), dataclasses.replace(sizes, is_shared=True), 2000)
    home = {int(row): number for number, batch in enumerate(batches) for row in batch}
    assert all(home[row] == home[row - 1] for row in range(2, 200, 3))


def test_packed_micro_batches_are_nearly_full(sizes: Sizes):
    shared = dataclasses.replace(sizes, is_shared=True)
    batches = micro_batches(np.arange(200), shared, 4000)
    assert len(batches) <= np.ceil(shared.tokens(np.arange(200)) / 4000) + 1


def test_micro_batches_do_not_depend_on_the_order_of_the_rows(sizes: Sizes):
    rows = np.arange(40)
    one, other = (micro_batches(order, sizes, 3000) for order in (rows, rows[::-1].copy()))
    assert [batch.tolist() for batch in one] == [batch.tolist() for batch in other]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("budget", [1, 2000])
def test_shares_cover_every_micro_batch_exactly_once_and_are_balanced(sizes: Sizes, ranks: int, budget: int):
    batches = micro_batches(np.arange(200), sizes, budget, ranks)
    shares = [share(batches, sizes, rank, ranks) for rank in range(ranks)]
    together = sorted(tuple(batch.tolist()) for part in shares for batch in part)
    assert together == sorted(tuple(batch.tolist()) for batch in batches)
    costs = [sum(sizes.tokens(batch) for batch in part) for part in shares]
    assert max(costs) - min(costs) <= max(sizes.tokens(batch) for batch in batches)


def test_no_rank_stands_idle_while_there_are_pairs_for_all(sizes: Sizes):
    for pairs in (1, 4):
        batches = micro_batches(np.arange(pairs), sizes, 10**6, at_least=4)
        assert [len(share(batches, sizes, rank, 4)) for rank in range(4)] == [1] * pairs + [0] * (4 - pairs)
