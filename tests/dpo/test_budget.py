"""Memory runs out in a step: the step is done again with less at once, and comes to the same."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import pytest
import torch

from tasks.core.errors import ConfigError
from tasks.dpo.capacity.budget import Budget, is_out_of_memory, within


class Limited(torch.nn.Linear):
    """A layer that has room for so many rows at once."""

    def __init__(self, room: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__(4, 1)
        self.room, self.error, self.rows_seen = room, error, list[int]()
        torch.nn.init.constant_(self.weight, 0.5)
        torch.nn.init.zeros_(self.bias)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.rows_seen.append(len(rows))
        if len(rows) > self.room:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(rows)


ROWS = torch.arange(40.0).view(10, 4)


def step(model: Limited, tokens: int) -> float:
    """Sum a loss over the rows, ``tokens`` at once; the last part is the largest."""
    parts = ROWS.split([len(ROWS) % tokens] * (len(ROWS) % tokens > 0) + [tokens] * (len(ROWS) // tokens))
    losses = []
    for part in parts:
        loss = model(part).square().sum()
        loss.backward()
        losses.append(loss.item())
    return sum(losses)


def done_within(model: Limited, budget: Budget) -> float:
    return within(budget, lambda tokens: step(model, tokens), lambda: model.zero_grad(set_to_none=True))


def test_a_step_that_does_not_fit_is_done_again_with_half_and_comes_to_the_same(caplog: pytest.LogCaptureFixture):
    roomy, tight, budget = Limited(100), Limited(3), Budget(8, longest_pair=1)
    expected = done_within(roomy, Budget(8, longest_pair=1))
    with caplog.at_level(logging.WARNING, "tasks"):
        assert done_within(tight, budget) == pytest.approx(expected, rel=1e-6)
    # 2 rows, then 8 that do not fit; 2, then 4; then twos
    assert tight.rows_seen == [2, 8, 2, 4, 2, 2, 2, 2, 2]
    torch.testing.assert_close(tight.weight.grad, roomy.weight.grad)
    assert [record.getMessage() for record in caplog.records] == [
        "memory ran out at 8 tokens at once: going on with 4",
        "memory ran out at 4 tokens at once: going on with 2",
    ]


def test_what_was_learnt_stays_for_the_next_step():
    model, budget = Limited(5), Budget(10, longest_pair=1)
    done_within(model, budget)
    model.rows_seen.clear()
    done_within(model, budget)
    assert (budget.tokens, model.rows_seen) == (5, [5, 5])


def test_it_ends_where_a_single_pair_does_not_fit():
    model, budget = Limited(2), Budget(10, longest_pair=3)
    with pytest.raises(
        ConfigError, match=r"memory ran out on a single pair \(3 tokens at the longest\) — set `runtime"
    ):
        done_within(model, budget)
    assert budget.tokens == 3
    assert model.weight.grad is None


def test_other_errors_are_not_taken_for_it():
    model = Limited(2, error=KeyError)
    with pytest.raises(KeyError):
        done_within(model, Budget(10, longest_pair=1))
    assert model.rows_seen == [10]


def test_what_the_failed_attempt_held_is_gone_before_the_next_begins():
    held: list[Any] = []

    def work(tokens: int) -> bool:
        if tokens == 2:
            own = torch.ones(1000)
            held.append(weakref.ref(own))
            raise torch.OutOfMemoryError("out of memory")
        gc.collect()
        return held[0]() is None

    assert within(Budget(2, longest_pair=1), work, lambda: None)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "windows", "driver", "cublas", "python"],
)
def test_memory_that_ran_out_is_known_by_its_signs(error: Exception):
    assert is_out_of_memory(error)


def test_the_cpus_own_allocator_is_understood():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("out of memory"), OSError(12, "x")])
def test_other_errors_are_other_errors(error: Exception):
    assert not is_out_of_memory(error)
