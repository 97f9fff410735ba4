"""The batch API: the same verdicts as live calls, and a batch that is submitted once."""

from __future__ import annotations

import os
import signal

import pytest

from tasks.core.errors import ConfigError, NetworkError, Preempted
from tasks.judges.llm import batches
from tests.judges.llm.chat_server import ChatServer
from tests.judges.llm.judging import comparisons, judged, runner

PROBE = 2


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "POLL_EVERY_S", 0.05)


def test_a_batch_gives_the_verdicts_of_live_calls(server: ChatServer, tmp_path):
    live = judged(server.url, tmp_path / "live", comparisons(10))
    calls, server.polls_until_done = server.calls, 3
    assert judged(server.url, tmp_path / "batch", comparisons(10), mode="batch") == live
    assert server.calls == calls + 20 + PROBE
    assert len(server.batches) == 1
    assert judged(server.url, tmp_path / "batch", comparisons(10), mode="batch") == live
    assert judged(server.url, tmp_path / "batch", comparisons(10), mode="replay") == live
    assert (server.calls, len(server.batches)) == (calls + 20 + PROBE, 1)


def test_failed_lines_and_replies_that_are_no_verdict_go_into_another_batch(server: ChatServer, tmp_path):
    coin = iter([None] * 5 + ["500", "prose", "500"] + [None] * 100)
    server.plan = lambda number, body: next(coin)
    verdicts = judged(server.url, tmp_path, comparisons(10), mode="batch")
    assert {verdict.status for verdict in verdicts} == {"ok"}
    assert server.calls == 20 + PROBE + 3
    assert len(server.batches) == 2


def test_lines_that_fail_again_and_again_stop_the_run_which_resumes(server: ChatServer, tmp_path):
    server.plan = lambda number, body: "500" if "Number 3." in body["messages"][-1]["content"] else None
    with pytest.raises(NetworkError, match="2 calls of the batches failed") as caught:
        judged(server.url, tmp_path, comparisons(10), mode="batch")
    assert "run again" in caught.value.todo
    server.plan = lambda number, body: None
    assert len(judged(server.url, tmp_path, comparisons(10), mode="batch")) == 20
    assert set(server.paid.values()) == {1}


def test_a_run_that_is_stopped_while_it_waits_finds_its_batch_again(server: ChatServer, tmp_path):
    runner(server.url, tmp_path).fingerprint  # noqa: B018  # the probe
    server.polls_until_done = 1000
    server.on_poll = lambda polls: os.kill(os.getpid(), signal.SIGTERM) if polls == 2 else None
    with pytest.raises(Preempted):
        judged(server.url, tmp_path, comparisons(10), mode="batch")
    assert server.calls == PROBE
    server.polls_until_done = 1
    assert len(judged(server.url, tmp_path, comparisons(10), mode="batch")) == 20
    assert (server.calls, len(server.batches)) == (20 + PROBE, 1)


def test_a_batch_whose_id_never_arrived_is_found_by_its_tag(server: ChatServer, tmp_path):
    """The server creates it, and the answer is lost."""
    server.loses_batch_answers = 1
    with pytest.raises(NetworkError, match="took no batch") as caught:
        judged(server.url, tmp_path, comparisons(10), mode="batch")
    assert "nothing is submitted twice" in caught.value.todo
    assert len(judged(server.url, tmp_path, comparisons(10), mode="batch")) == 20
    assert (server.calls, len(server.batches)) == (20 + PROBE, 1)


def test_a_batch_that_was_never_created_is_submitted_again(server: ChatServer, tmp_path):
    server.refuses_batches = 1
    with pytest.raises(NetworkError):
        judged(server.url, tmp_path, comparisons(10), mode="batch")
    assert len(judged(server.url, tmp_path, comparisons(10), mode="batch")) == 20
    assert (server.calls, len(server.batches)) == (20 + PROBE, 1)


def test_an_endpoint_without_the_batch_api_is_refused_with_advice(server: ChatServer, tmp_path):
    server.has_batches = False
    with pytest.raises(ConfigError, match=r"takes no batches \(404") as caught:
        judged(server.url, tmp_path, comparisons(3), mode="batch")
    assert "`mode: live`" in caught.value.todo
    assert len(judged(server.url, tmp_path, comparisons(3))) == 6


def test_another_model_in_a_batch_is_refused(server: ChatServer, tmp_path):
    server.plan = lambda number, body: "wrong model" if number == 7 else None
    with pytest.raises(ConfigError, match="a batch for the model 'tiny' was answered by 'another-model'"):
        judged(server.url, tmp_path, comparisons(10), mode="batch")


def test_a_batch_that_may_cost_too_much_is_not_submitted(server: ChatServer, tmp_path):
    limit = {"price_in": 1000.0, "price_out": 1000.0, "max_cost": 12.0}
    with pytest.raises(ConfigError, match=r"the batch of 20 calls may cost up to \d+"):
        judged(server.url, tmp_path, comparisons(10), mode="batch", **limit)
    assert (server.calls, len(server.batches)) == (PROBE, 0)
    assert len(judged(server.url, tmp_path, comparisons(10), mode="batch", **{**limit, "max_cost": 99.0})) == 20


def test_calls_are_split_where_one_batch_holds_too_few(server: ChatServer, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "_MOST_CALLS", 8)
    assert len(judged(server.url, tmp_path, comparisons(10), mode="batch")) == 20
    assert len(server.batches) == 3


def test_a_prompt_that_is_too_long_is_one_missing_verdict_in_a_batch_too(server: ChatServer, tmp_path):
    server.plan = lambda number, body: "400 too long" if "Number 1." in body["messages"][-1]["content"] else None
    verdicts = judged(server.url, tmp_path, comparisons(4), mode="batch")
    assert [verdict.status for verdict in verdicts].count("invalid") == 2
    assert len(server.batches) == 1


def test_a_broken_line_is_a_call_that_is_made_again(server: ChatServer, tmp_path):
    server.breaks_lines = 2
    assert len(judged(server.url, tmp_path, comparisons(4), mode="batch")) == 8
    assert len(server.batches) == 2
