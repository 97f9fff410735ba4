"""Work in another thread: in order, a little ahead or behind, and its errors are raised here."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tasks.core.background import Behind, ahead


def test_items_are_made_one_ahead_in_another_thread() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for number in range(5):
            made.append(threading.get_ident())
            if number == 1:
                second.set()
            yield number

    coming = ahead(items())
    assert next(coming) == 0
    assert second.wait(10)
    assert list(coming) == [1, 2, 3, 4]
    assert threading.get_ident() not in made


def test_an_error_of_making_an_item_comes_in_its_place() -> None:
    coming = ahead(1 // number for number in (1, 0, 1))
    assert next(coming) == 1
    with pytest.raises(ZeroDivisionError):
        next(coming)


def test_jobs_are_done_in_order_and_all_at_the_end() -> None:
    done: list[int] = []
    with Behind() as behind:
        for number in range(100):
            behind.do(done.append, number)
    assert done == list(range(100))


def test_an_error_of_the_last_job_is_raised_at_the_end() -> None:
    with pytest.raises(ZeroDivisionError), Behind() as behind:
        behind.do(lambda: 1 // 0)


def test_an_error_of_a_job_is_raised_by_a_later_one() -> None:
    after: list[int] = []

    def work(behind: Behind) -> None:
        behind.do(lambda: 1 // 0)
        for number in range(100):
            behind.do(int)
            after.append(number)

    with pytest.raises(ZeroDivisionError), Behind() as behind:
        work(behind)
    assert len(after) < 3


def test_waiting_jobs_are_left_out_after_an_error() -> None:
    done: list[int] = []
    begun, end = threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        end.wait(10)

    def work(behind: Behind) -> None:
        behind.do(job)
        behind.do(done.append, 1)
        assert begun.wait(10)
        threading.Timer(0.05, end.set).start()
        raise KeyError

    with pytest.raises(KeyError), Behind() as behind:
        work(behind)
    assert not done
