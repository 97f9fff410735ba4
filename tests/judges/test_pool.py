"""Many items at a judge at once: in order, bounded, and ended by the first error or a request to stop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from tasks.core.errors import ConfigError, Preempted
from tasks.judges.games import pool
from tasks.judges.games.pool import finish, opinions
from tasks.judges.protocol.protocol import Answer, Item, Opinion, Prompt, Turn

PROMPT = Prompt((Turn("user", "?"),))


def items(count: int) -> Iterator[Item]:
    return (Item(str(number), PROMPT, Answer("a"), Answer("b")) for number in range(count))


class SlowJudge:
    """Takes longer for the first items than for later ones."""

    fingerprint = "slow"

    def __init__(self, at_once: int = 8) -> None:
        self.at_once = at_once
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.most = self.closed = self.stopped = 0

    async def judge(self, item: Item) -> Opinion:
        number = int(item.item_id)
        self.begun.append(number)
        self.most = max(self.most, len(self.begun) - len(self.ended))
        await self.work(number)
        self.ended.append(number)
        return Opinion("ok", 1.0, {"number": number})

    async def work(self, number: int) -> None:
        await asyncio.sleep(0.02 / (number + 1))

    async def stop(self) -> None:
        self.stopped += 1

    async def close(self) -> None:
        self.closed += 1


def test_opinions_come_in_order_and_no_item_waits_for_a_slow_one():
    judge = SlowJudge()
    assert [opinion.detail["number"] for opinion in opinions(judge, items(50))] == list(range(50))
    assert judge.most == 8
    assert judge.ended != sorted(judge.ended)
    assert judge.closed == 1


def test_there_may_be_no_items():
    assert list(opinions(SlowJudge(), items(0))) == []


def test_a_judge_that_says_nothing_is_asked_one_at_a_time():
    judge = SlowJudge()
    del judge.at_once
    list(opinions(judge, items(5)))
    assert judge.most == 1


def test_items_are_taken_no_further_ahead_than_memory_allows(monkeypatch):
    monkeypatch.setattr(pool, "_AHEAD", 10)

    class StuckJudge(SlowJudge):
        async def work(self, number: int) -> None:
            await asyncio.sleep(0.05 if number == 0 else 0)
            if number == 0:
                self.before_the_first = len(self.begun)

    judge = StuckJudge()
    assert len(list(opinions(judge, items(100)))) == 100
    assert judge.before_the_first <= 10 + 1


def test_the_first_error_ends_it_and_what_is_with_the_judge_is_waited_for():
    class FailingJudge(SlowJudge):
        async def work(self, number: int) -> None:
            if number == 20:
                raise ConfigError("no key", "set it")
            await asyncio.sleep(0.03 if number > 12 else 0)
            if self.stopped:
                raise Preempted("stopped")

    judge = FailingJudge()
    with pytest.raises(ConfigError, match="no key"):
        list(opinions(judge, items(1000)))
    assert len(judge.begun) <= 30
    assert (judge.stopped, judge.closed) == (1, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_begins_nothing_more_and_finishes_what_was_begun(number):
    class InterruptedJudge(SlowJudge):
        async def work(self, item: int) -> None:
            if item == 20:
                os.kill(os.getpid(), number)
            await asyncio.sleep(0.02)

    judge, before = InterruptedJudge(), signal.getsignal(number)
    with pytest.raises(Preempted):
        list(opinions(judge, items(1000)))
    assert len(judge.begun) <= 20 + 8
    assert sorted(judge.ended) == sorted(judge.begun)
    assert judge.closed == 1
    assert signal.getsignal(number) == before


def test_a_stop_among_the_last_items_gives_all_opinions_and_then_stops():
    class LateJudge(SlowJudge):
        async def work(self, item: int) -> None:
            if item == 9:
                os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.02)

    verdicts = opinions(LateJudge(), items(10))
    assert [next(verdicts).detail["number"] for _ in range(10)] == list(range(10))
    with pytest.raises(Preempted):
        next(verdicts)


def test_a_stop_reaches_a_judge_that_waits():
    class WaitingJudge(SlowJudge):
        async def work(self, item: int) -> None:
            if item == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            while not self.stopped:
                await asyncio.sleep(0.01)
            raise Preempted("stopped")

    with pytest.raises(Preempted):
        list(opinions(WaitingJudge(), items(10)))


def test_a_second_interrupt_waits_for_nothing():
    class HangingJudge(SlowJudge):
        async def work(self, item: int) -> None:
            if item == 0:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(3600)

    with pytest.raises(KeyboardInterrupt):
        list(opinions(HangingJudge(), items(10)))


def test_whoever_stops_taking_opinions_waits_for_what_was_begun():
    judge = SlowJudge()
    verdicts = opinions(judge, items(100))
    next(verdicts)
    verdicts.close()
    assert sorted(judge.ended) == sorted(judge.begun)
    assert judge.closed == 1


def test_a_judge_finishes_work_of_its_own_and_hears_of_a_stop():
    judge = SlowJudge()

    async def work() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        while not judge.stopped:
            await asyncio.sleep(0.01)
        return 7

    with pytest.raises(Preempted):
        finish(judge, work())
    assert judge.closed == 1
    assert finish(judge, asyncio.sleep(0, 7)) == 7
