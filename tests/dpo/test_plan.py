"""The plan: which pairs make up a step, how a step is cut, and who does which part."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.dpo.plan import Plan, micro_batches, share

WIDTHS = np.random.default_rng(0).integers(5, 400, 200)


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


@pytest.mark.parametrize("budget", [1, 100, 799, 1600, 10**6])
@pytest.mark.parametrize("at_least", [1, 3, 300])
def test_micro_batches_cover_the_step_within_the_budget(budget: int, at_least: int):
    rows = Plan(200, 37, 1, 0).rows(2)
    batches = micro_batches(rows, WIDTHS, budget, at_least)
    assert sorted(np.concatenate(batches).tolist()) == sorted(rows.tolist())
    for batch in batches:
        assert len(batch) == 1 or 2 * len(batch) * WIDTHS[batch].max() <= budget
    assert len(batches) >= min(at_least, 37)


def test_micro_batches_do_not_depend_on_the_order_of_the_rows():
    rows = np.arange(40)
    one, other = (micro_batches(order, WIDTHS, 3000) for order in (rows, rows[::-1].copy()))
    assert [batch.tolist() for batch in one] == [batch.tolist() for batch in other]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("budget", [1, 2000])
def test_shares_cover_every_micro_batch_exactly_once_and_are_balanced(ranks: int, budget: int):
    batches = micro_batches(np.arange(200), WIDTHS, budget, ranks)
    shares = [share(batches, WIDTHS, rank, ranks) for rank in range(ranks)]
    together = sorted(tuple(batch.tolist()) for part in shares for batch in part)
    assert together == sorted(tuple(batch.tolist()) for batch in batches)
    costs = [sum(int(len(batch) * WIDTHS[batch].max()) for batch in part) for part in shares]
    dearest = max(int(len(batch) * WIDTHS[batch].max()) for batch in batches)
    assert max(costs) - min(costs) <= dearest


def test_no_rank_stands_idle_while_there_are_pairs_for_all():
    batches = micro_batches(np.arange(4), WIDTHS, 10**6, at_least=4)
    assert [len(share(batches, WIDTHS, rank, 4)) for rank in range(4)] == [1, 1, 1, 1]
    assert [len(share(micro_batches(np.arange(1), WIDTHS, 100, 4), WIDTHS, rank, 4)) for rank in range(4)] == [
        1,
        0,
        0,
        0,
    ]
