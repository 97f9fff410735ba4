"""An endpoint that misbehaves: the run ends with the same verdicts, or stops with one line and can be resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import socket
import time
from collections.abc import Callable

import pytest

from tasks.core.errors import ConfigError, NetworkError, PipelineError
from tasks.judges.games.games import Verdict
from tasks.judges.protocol.protocol import Answer
from tests.judges.llm.chat_server import ChatServer
from tests.judges.llm.judging import comparisons, judged, runner

PROBE = 2  # calls


def at_times(share: float, fault: str) -> Callable[[int, dict], str | None]:
    """A fault in a share of the calls."""
    coin = random.Random(0)
    return lambda number, body: fault if coin.random() < share else None


@pytest.mark.parametrize(
    "fault", ["500", "503", "408", "409", "429", "429 0.01", "garbage", "empty object", "cut connection"]
)
def test_a_fault_that_passes_changes_no_verdict(server: ChatServer, tmp_path, fault):
    healthy = judged(server.url, tmp_path / "healthy", comparisons(20))
    before, paid = server.calls, server.paid.total()
    server.plan = at_times(0.3, fault)
    judge = runner(server.url, tmp_path / "faulty")
    assert list(judge.verdicts(comparisons(20))) == healthy
    assert server.paid.total() - paid == 40 + PROBE
    assert judge.usage.attempts == server.calls - before - PROBE - _failed_probes(server, before)


def _failed_probes(server: ChatServer, before: int) -> int:
    probes = [body for body in server.bodies[before:] if "spider" in body["messages"][-1]["content"]]
    return len(probes) - PROBE


def test_a_call_without_an_answer_in_time_is_made_again(server: ChatServer, tmp_path):
    server.plan = lambda number, body: "slow" if number == 5 else None
    assert len(judged(server.url, tmp_path, comparisons(5), timeout_s=0.3)) == 10
    assert server.calls == 10 + PROBE + 1


@pytest.mark.parametrize("after", ["1", "date"])
def test_a_server_is_not_asked_again_before_the_time_that_it_names(server: ChatServer, tmp_path, after):
    runner(server.url, tmp_path).fingerprint  # noqa: B018  # the probe
    server.plan = lambda number, body: f"429 {after}" if number == PROBE else None
    times: list[float] = []
    server.on_call = lambda number: times.append(time.monotonic())
    judged(server.url, tmp_path, comparisons(1), at_once=1)
    wait = {"1": 1.0, "date": 0.0}[after]  # a date has whole seconds, so it may be as near as now
    assert wait <= times[1] - times[0] < 20


def test_a_server_that_asks_to_wait_for_an_hour_ends_the_run(server: ChatServer, tmp_path):
    server.plan = lambda number, body: "429 3600"
    with pytest.raises(NetworkError, match="asks to wait for 3600 s") as caught:
        judged(server.url, tmp_path, comparisons(5))
    assert "finished calls are kept" in caught.value.todo


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
def test_a_refusal_ends_the_run_at_once(server: ChatServer, tmp_path, status):
    server.plan = lambda number, body: str(status) if number >= 10 else None
    with pytest.raises(ConfigError, match=f"refuses the judge's calls \\({status}: planned {status}") as caught:
        judged(server.url, tmp_path, comparisons(50))
    assert server.calls <= 10 + 16
    assert caught.value.todo
    server.plan = lambda number, body: None
    judged(server.url, tmp_path, comparisons(50))
    assert server.paid.total() == 100 + PROBE, "what was finished is not paid again"


def test_an_exhausted_quota_is_no_reason_to_wait(server: ChatServer, tmp_path):
    server.plan = lambda number, body: "429 insufficient_quota" if number >= PROBE else None
    with pytest.raises(ConfigError, match="insufficient_quota"):
        judged(server.url, tmp_path, comparisons(1), at_once=1)
    assert server.calls == PROBE + 1


def test_an_endpoint_that_went_down_stops_the_run_which_resumes(server: ChatServer, tmp_path):
    server.plan = lambda number, body: "503" if number >= 30 else None
    with pytest.raises(NetworkError, match=r"failed (20 times in a row|10 times at one call) \(503") as caught:
        judged(server.url, tmp_path, comparisons(50), at_once=4)
    assert "run again" in caught.value.todo
    assert 30 < server.calls < 60
    server.plan = lambda number, body: None
    judged(server.url, tmp_path, comparisons(50))
    assert set(server.paid.values()) == {1}
    assert server.paid.total() == 100 + PROBE


def test_nobody_at_the_address_is_one_line(tmp_path, caplog):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(NetworkError, match="failed 10 times") as caught:
            judged(url, tmp_path, comparisons(1))
    assert "Connection error" in str(caught.value)
    assert "failed 4 times in a row (APIConnectionError: Connection error." in caplog.text


@pytest.mark.parametrize("answers_as", ["tiny", "tiny-2024-08-06", "tiny-20240806", "tiny-0613"])
def test_a_model_may_answer_with_its_date(server: ChatServer, tmp_path, answers_as):
    server.model = answers_as
    judge = runner(server.url, tmp_path)
    list(judge.verdicts(comparisons(3)))
    assert judge.usage.model == answers_as


@pytest.mark.parametrize("answers_as", ["other", "tiny-mini", "Tiny", "tin"])
def test_another_model_is_refused_unless_it_is_named(server: ChatServer, tmp_path, answers_as):
    server.model = answers_as
    with pytest.raises(ConfigError, match=f"was asked for the model 'tiny', and '{answers_as}' answers") as caught:
        judged(server.url, tmp_path, comparisons(3))
    assert f"`winrate.judge.answered_as: {answers_as}`" in caught.value.todo
    assert len(judged(server.url, tmp_path, comparisons(3), answered_as=answers_as)) == 6


def test_a_model_that_changes_under_way_ends_the_run_and_is_not_kept(server: ChatServer, tmp_path):
    server.plan = lambda number, body: "wrong model" if number == 20 else None
    with pytest.raises(ConfigError, match="asked for the model 'tiny', and 'another-model' answers"):
        judged(server.url, tmp_path, comparisons(50))
    assert len(judged(server.url, tmp_path, comparisons(50))) == 100
    assert sorted(set(server.paid.values())) == [1, 2]
    assert list(server.paid.values()).count(2) == 1


@pytest.mark.parametrize("fault", ["refusal", "prose", "cut off"])
def test_a_reply_that_is_no_verdict_is_asked_for_again_a_few_times(server: ChatServer, tmp_path, fault):
    server.plan = lambda number, body: fault if "Number 1." in body["messages"][-1]["content"] else None
    verdicts = judged(server.url, tmp_path, comparisons(4))
    assert [verdict.status for verdict in verdicts] == ["ok", "ok", "invalid", "invalid", "ok", "ok", "ok", "ok"]
    assert all(verdict.p_candidate is None and verdict.detail["fault"] for verdict in verdicts[2:4])
    assert server.calls == 8 + PROBE + 2 * 2
    assert sorted(body["seed"] for body in server.bodies) == [0] * 10 + [1, 1, 2, 2]
    assert judged(server.url, tmp_path, comparisons(4)) == verdicts
    assert server.calls == 8 + PROBE + 2 * 2


def test_a_prompt_that_is_too_long_for_the_model_is_one_missing_verdict(server: ChatServer, tmp_path):
    server.plan = lambda number, body: "400 too long" if "Number 1." in body["messages"][-1]["content"] else None
    verdicts = judged(server.url, tmp_path, comparisons(4))
    assert [verdict.status for verdict in verdicts].count("invalid") == 2
    assert "maximum context length" in verdicts[2].detail["reply"]
    assert judged(server.url, tmp_path, comparisons(4), mode="replay") == verdicts


def test_the_best_form_that_both_canned_items_get_is_taken(server: ChatServer, tmp_path):
    for number, forms in enumerate([{"label", "json"}, {"json"}, set()]):
        server.forms, server.bodies = set(forms), []
        judged(server.url, tmp_path / str(number), comparisons(2))
        assert ("logprobs" in server.bodies[-1], "response_format" in server.bodies[-1]) == [
            (True, False),
            (False, True),
            (False, False),
        ][number]
        assert {key: server.bodies[-1][key] for key in ("temperature", "top_p", "seed")} == {
            "temperature": 0,
            "top_p": 1,
            "seed": 0,
        }
        assert server.bodies[-1]["max_tokens"] == [8, 1024, 1024][number]


def test_a_model_that_gives_no_verdict_in_any_form_is_refused_before_anything_is_judged(server: ChatServer, tmp_path):
    server.plan = lambda number, body: "prose"
    with pytest.raises(ConfigError, match=r"no verdict in any form \(label: .*json: .*line: the last"):
        judged(server.url, tmp_path, comparisons(50))
    assert server.calls == 3 * 2


def test_fewer_calls_are_in_flight_where_the_server_has_too_many(server: ChatServer, tmp_path):
    """A server that takes four at a time."""
    runner(server.url, tmp_path).fingerprint  # noqa: B018  # the probe
    server.delay_s = 0.01
    server.plan = lambda number, body: "429" if server.at_once > 4 else None
    judged(server.url, tmp_path, comparisons(100), at_once=32)
    refused = server.calls - server.paid.total()
    assert server.most_at_once <= 32
    assert refused < 120, "32 at once for ever would be refused far more often"


def test_the_package_is_asked_for_in_one_line(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match="needs the package openai") as caught:
        judged("http://127.0.0.1:9/v1", tmp_path, comparisons(1))
    assert "pip install -c constraints.txt -e .[judge]" in caught.value.todo


@pytest.mark.parametrize("seed", range(3))
def test_many_faults_together_end_right_or_stop_resumable(server: ChatServer, tmp_path, seed):
    healthy = judged(server.url, tmp_path / "healthy", comparisons(30))
    coin = random.Random(seed)
    faults = ["500", "503", "429 0.01", "garbage", "cut connection", "slow", "refusal", "401"]
    server.plan = lambda number, body: coin.choice(faults) if coin.random() < 0.3 else None
    verdicts: list[Verdict] = []
    while not verdicts:
        with contextlib.suppress(PipelineError):
            verdicts = judged(server.url, tmp_path / "faulty", comparisons(30), timeout_s=0.2, at_once=8)
    known = {(verdict.prompt_id, verdict.order): verdict for verdict in healthy}
    for verdict in verdicts:
        assert verdict == known[verdict.prompt_id, verdict.order] or verdict.status == "invalid"
    assert verdicts == judged(server.url, tmp_path / "faulty", comparisons(30), mode="replay")


@pytest.mark.parametrize(
    "change",
    [
        {"choices": []},
        {"choices": None},
        {"choices": [{"message": None}]},
        {"usage": {"prompt_tokens": "many"}},
        {"usage": {"prompt_tokens": 1e999}},
        {"choices": [{"message": {"content": 7}}]},
        {"choices": [{"message": {"content": "A"}, "logprobs": {"content": ["A"]}}]},
    ],
)
def test_what_is_no_completion_is_asked_for_again(server: ChatServer, tmp_path, change):
    server.change = lambda number: change if number == 5 else {}
    assert len(judged(server.url, tmp_path, comparisons(5))) == 10
    assert server.calls == 10 + PROBE + 1


def test_texts_and_numbers_that_no_file_can_hold_break_nothing(server: ChatServer, tmp_path):
    """Half a surrogate pair, and log-probabilities that are no numbers."""
    strange = {"token": "\ud800", "logprob": math.nan}
    top = [{"token": "A", "logprob": -0.1}, strange, {"token": "B", "logprob": -math.inf}]
    message = {"content": "A", "refusal": None}
    scored = {"content": [{**top[0], "top_logprobs": top}]}
    choices = [{"message": message, "finish_reason": "stop", "logprobs": scored}]
    server.change = lambda number: {"choices": choices}
    pair = comparisons(1)[0]
    odd = dataclasses.replace(pair, candidate=Answer("half \ud800 a pair"))
    assert [verdict.p_candidate for verdict in judged(server.url, tmp_path, [odd])] == [1.0, 0.0]
    strange = {"choices": [{"message": {"content": "\udfff"}, "finish_reason": "\udfff"}]}
    server.change = lambda number: {**strange, "usage": {"prompt_tokens": 10**30, "completion_tokens": -1}}
    assert {verdict.status for verdict in judged(server.url, tmp_path, comparisons(2))} == {"invalid"}
