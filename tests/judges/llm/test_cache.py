"""The cache of answers: written at once, one file when closed, failures never served."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from tasks.core.errors import ConfigError, StorageError
from tasks.judges.llm.answer_cache import AnswerCache
from tasks.judges.protocol.protocol import Usage
from tests.judges.llm.chat_server import ChatServer
from tests.judges.llm.judging import comparisons, judged, runner

USAGE = Usage(tokens_in=10, tokens_out=2, cost=0.5, seconds=1.5, attempts=3, model="tiny")


def test_an_answer_comes_back_with_what_it_took(tmp_path):
    cache = AnswerCache(tmp_path / "new" / "a.sqlite")
    cache.put("k", {"text": "ünï\x00", "top": [["A", -0.25]]}, USAGE)
    cache.put("score", 0.25)
    assert cache.get_many(["k", "none", "score"]) == {"k": {"text": "ünï\x00", "top": [["A", -0.25]]}, "score": 0.25}
    assert cache.usage_of(["k"]) == {"k": USAGE}
    many = [str(number) for number in range(1200)]
    for key in many:
        cache.put(key, 1)
    assert len(cache.get_many(many)) == 1200
    cache.close()


def test_what_was_put_is_in_the_file_before_it_is_closed(tmp_path):
    cache = AnswerCache(tmp_path / "a.sqlite")
    cache.put("k", 1)
    with sqlite3.connect(tmp_path / "a.sqlite") as other:
        assert other.execute("SELECT payload FROM answers").fetchall() == [("1",)]
    other.close()
    cache.close()


def test_failures_are_kept_and_never_served(tmp_path):
    cache = AnswerCache(tmp_path / "a.sqlite")
    cache.fail("k", "503: busy")
    cache.fail("k", "503: busy")
    assert cache.get_many(["k"]) == {}
    assert cache.failures_of(["k", "other"]) == 2
    cache.close()


def test_facts_are_set_replaced_and_removed(tmp_path):
    cache = AnswerCache(tmp_path / "a.sqlite")
    cache.set_fact("name", {"id": 1})
    cache.set_fact("name", {"id": 2})
    assert cache.fact("name") == {"id": 2}
    cache.set_fact("name", None)
    assert cache.fact("name") is None
    cache.close()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_bytes(b"no database at all, but long enough to be one" * 100), "not a database"),
        (lambda path: path.mkdir(), "unable to open"),
        (lambda path: _set_version(path, 9), "newer version"),
    ],
    ids=["text", "folder", "newer"],
)
def test_a_file_that_cannot_be_used_is_one_line_with_advice(tmp_path, spoil, words):
    spoil(tmp_path / "a.sqlite")
    with pytest.raises(StorageError, match=words) as caught:
        AnswerCache(tmp_path / "a.sqlite")
    assert str(tmp_path / "a.sqlite") in caught.value.what
    assert caught.value.todo


def _set_version(path: Path, version: int) -> None:
    base = sqlite3.connect(path)
    base.execute(f"PRAGMA user_version={version}")
    base.close()


def test_a_finished_call_is_never_paid_again(server: ChatServer, tmp_path):
    first = judged(server.url, tmp_path, comparisons(20))
    calls = server.calls
    assert calls == 40 + 2  # both orders, and the two canned items
    judge = runner(server.url, tmp_path)
    assert list(judge.verdicts(comparisons(20))) == first
    assert (server.calls, judge.usage.cached, judge.usage.cost, judge.usage.attempts) == (calls, 40, 0, 0)
    judged(server.url, tmp_path, comparisons(21))
    assert server.calls == calls + 2


def test_equal_items_in_flight_are_one_call(server: ChatServer, tmp_path):
    server.delay_s = 0.02
    pair = comparisons(1)[0]
    verdicts = judged(server.url, tmp_path, [pair] * 10)
    assert len({round(verdict.p_candidate, 9) for verdict in verdicts}) == 1
    assert server.calls == 2 + 2


def test_the_cache_is_one_file_that_replays_elsewhere_without_an_endpoint(server: ChatServer, tmp_path):
    server.plan = lambda number, body: "prose" if "Number 3." in body["messages"][-1]["content"] else None
    here, there = tmp_path / "here", tmp_path / "there"
    first = judged(server.url, here, comparisons(10))
    assert {verdict.status for verdict in first} == {"ok", "invalid"}
    assert [path.name for path in here.iterdir()] == ["a.sqlite"]

    there.mkdir()
    shutil.copy(here / "a.sqlite", there)
    calls = server.calls
    assert judged(server.url, there, comparisons(10), mode="replay", key="NO_SUCH_KEY") == first
    assert server.calls == calls


def test_a_replay_says_how_many_verdicts_are_missing(server: ChatServer, tmp_path):
    with pytest.raises(ConfigError, match="holds no answers of 'tiny'"):
        judged(server.url, tmp_path, comparisons(3), mode="replay")
    judged(server.url, tmp_path, comparisons(10))
    with pytest.raises(ConfigError, match="6 of 26 verdicts are not in "):
        judged(server.url, tmp_path, comparisons(13), mode="replay")
    judged(server.url, tmp_path, comparisons(13))  # as the advice says
    assert len(judged(server.url, tmp_path, comparisons(13), mode="replay")) == 26


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"criteria": "Prefer rhymes."}, {"max_tokens": 99}, {"model": "other"}]
)
def test_what_can_change_an_answer_changes_its_key_and_the_fingerprint(server: ChatServer, tmp_path, change):
    server.forms = {"line"}
    server.model = "tiny" if "model" not in change else None
    judged(server.url, tmp_path, comparisons(3))
    calls, former = server.calls, runner(server.url, tmp_path).fingerprint
    assert runner(server.url, tmp_path, **change).fingerprint != former
    judged(server.url, tmp_path, comparisons(3), **change)
    assert server.calls >= calls + 6


@pytest.mark.parametrize(
    "change", [{"at_once": 2}, {"mode": "replay"}, {"price_in": 1.0}, {"max_calls": 99}, {"timeout_s": 5.0}]
)
def test_what_changes_no_answer_changes_neither(server: ChatServer, tmp_path, change):
    first = judged(server.url, tmp_path, comparisons(3))
    calls = server.calls
    assert judged(server.url, tmp_path, comparisons(3), **change) == first
    assert server.calls == calls


def test_two_endpoints_do_not_share_answers(server: ChatServer, tmp_path):
    judged(server.url, tmp_path, comparisons(3))
    calls = server.calls
    judged(server.url.replace("127.0.0.1", "localhost"), tmp_path, comparisons(3))
    assert server.calls == 2 * calls
