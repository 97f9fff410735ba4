"""What may be spent, and how fast: said before the first call, and never exceeded."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tasks.core.errors import ConfigError, Preempted
from tasks.judges.llm.limits import Budget, Pace, Window
from tests.judges.llm.chat_server import ChatServer
from tests.judges.llm.judging import choice, comparisons, judged, runner

PROBE = 2
PRICES = {"price_in": 1000.0, "price_out": 1000.0}  # a thousandth a token


def test_a_pace_spreads_amounts_over_the_minute():
    now = [100.0]
    pace = Pace(120, clock=lambda: now[0])
    assert [pace.delay(1) for _ in range(3)] == [0.0, 0.5, 1.0]
    now[0] = 101.5
    assert pace.delay(10) == 0.0
    assert pace.delay(1) == 5.0
    pace.give_back(8)
    assert pace.delay(1) == pytest.approx(1.5)
    assert [Pace(None).delay(10**9) for _ in range(2)] == [0.0, 0.0]


def test_a_window_halves_once_a_round_and_grows_by_one_a_round():
    window = Window(16)
    window.halve(0)
    window.halve(0)
    assert window.size == 8
    window.halve(1)
    assert window.size == 4
    for _ in range(4):
        window.widen()
    assert 4.8 < window.size < 5
    for _ in range(500):
        window.widen()
    assert window.size == 16
    for number in range(2, 12):
        window.halve(number)
    assert window.size == 1


def test_a_window_lets_nobody_in_who_waits_when_it_is_stopped():
    async def scene() -> None:
        window = Window(1)
        async with window.place():
            waiting = asyncio.create_task(window.place().__aenter__())
            await asyncio.sleep(0)
            await window.stop()
            with pytest.raises(Preempted):
                await waiting

    asyncio.run(scene())


def test_calls_in_flight_count_with_the_most_that_they_can_cost(tmp_path):
    budget = Budget(choice("http://x/v1", tmp_path, **PRICES, max_cost=1.0))
    with budget.booked(200, 200):
        with budget.booked(300, 300):
            pass
        with pytest.raises(ConfigError, match="max_cost` is 1, and one more call would exceed it"):
            budget.booked(301, 300).__enter__()
        budget.spend(0.1)
    with budget.booked(400, 500):
        pass


def test_an_estimate_is_logged_before_the_first_call(server: ChatServer, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    judge = runner(server.url, tmp_path, **PRICES)
    judge.prepare(comparisons(20))
    assert server.calls == PROBE
    (line,) = [record.getMessage() for record in caplog.records if "tokens in" in record.getMessage()]
    assert line.startswith("40 calls to tiny, about ")
    assert line.endswith("0 of 40 verdicts are in the cache")
    list(judge.verdicts(comparisons(20)))
    told = float(line.partition("cost about ")[2].partition(";")[0])
    assert told == pytest.approx(judge.usage.cost, rel=0.05)
    assert judge.usage.cost == pytest.approx((judge.usage.tokens_in + judge.usage.tokens_out) / 1000)


@pytest.mark.parametrize("limit", [{"max_calls": 39}, {"max_cost": 3.0, **PRICES}])
def test_an_estimate_beyond_a_limit_is_refused_before_any_answer_is_judged(server: ChatServer, tmp_path, limit):
    with pytest.raises(ConfigError, match="about 40 calls are still needed, cost about") as caught:
        judged(server.url, tmp_path, comparisons(20), **limit)
    assert server.calls == PROBE
    assert "raise it and run again" in caught.value.todo
    judged(server.url, tmp_path, comparisons(20), **{**limit, **{key: 99 for key in limit if key.startswith("max")}})


def test_calls_stop_at_max_calls_and_go_on_where_it_is_raised(server: ChatServer, tmp_path):
    server.plan = lambda number, body: "503" if number % 2 and number > PROBE else None
    with pytest.raises(ConfigError, match="max_calls` is 50, and one more call would exceed it"):
        judged(server.url, tmp_path, comparisons(20), max_calls=50)
    assert server.calls == PROBE + 50
    with pytest.raises(ConfigError, match="50 calls, cost 0 so far"):
        judged(server.url, tmp_path, comparisons(20), max_calls=50)
    assert server.calls == PROBE + 50, "earlier runs count"
    judged(server.url, tmp_path, comparisons(20), max_calls=100)
    assert set(server.paid.values()) == {1}


def test_spending_stays_below_max_cost(server: ChatServer, tmp_path):
    """Replies turn out longer than those to the canned items."""
    server.forms = set()
    judge = runner(server.url, tmp_path, **PRICES, max_tokens=64)
    judge.prepare(comparisons(20))
    probe = server.tokens / 1000
    list(judge.verdicts(comparisons(4)))
    limit = judge.usage.cost * 5.3
    judge = runner(server.url, tmp_path, **PRICES, max_tokens=64, max_cost=limit)
    judge.prepare(comparisons(20))
    server.longer = 40
    with pytest.raises(ConfigError, match=r"max_cost` is .* one more call would exceed it"):
        list(judge.verdicts(comparisons(20)))
    assert 0.7 * limit < server.tokens / 1000 - probe <= limit
    with pytest.raises(ConfigError, match="raise it and run again"):
        judged(server.url, tmp_path, comparisons(20), **PRICES, max_tokens=64, max_cost=limit)
    judged(server.url, tmp_path, comparisons(20), **PRICES, max_tokens=64, max_cost=10 * limit)


def test_the_requests_of_a_minute_are_limited(server: ChatServer, tmp_path):
    runner(server.url, tmp_path).fingerprint  # noqa: B018  # the probe
    import time

    began = time.monotonic()
    judged(server.url, tmp_path, comparisons(5), requests_per_minute=1200)
    assert time.monotonic() - began >= 9 * 0.05


def test_a_limit_without_prices_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="max_cost` is 5, and no price is known") as caught:
        choice("http://x/v1", tmp_path, max_cost=5.0)
    assert "`price_in`" in caught.value.todo
