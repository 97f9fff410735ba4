"""A reward model at a server on loopback: what is sent, what is read, what passes and what ends the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import ConfigError, NetworkError
from tasks.core.runtime import RuntimeConfig
from tasks.judges.models import reward_endpoint
from tasks.judges.models.model_choices import ModelPlace, RewardEndpointJudge
from tasks.judges.models.reward_endpoint import ATTEMPTS, RewardEndpointScorer
from tasks.judges.protocol.protocol import Answer, Prompt, Response, Turn
from tests.judges.models.conftest import winrate_config
from tests.judges.models.pooling_server import PoolingServer, pooled, pooling_server

TURNS = (Turn("system", "Be kind."), Turn("user", "My lamp hums."))
TOO_LONG = {"error": {"message": "This model's maximum context length is 512 tokens. However, you requested 600"}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[PoolingServer]:
    monkeypatch.setattr(reward_endpoint, "_FIRST_PAUSE_S", 0.001)
    with pooling_server() as running:
        yield running


@pytest.fixture
def place(tmp_path: Path) -> ModelPlace:
    """Only the row store is used."""
    return ModelPlace(*[tmp_path] * 4, RuntimeConfig(row_store=str(tmp_path / "rows"), device="cpu"))


def scorer(server: PoolingServer, place: ModelPlace, **more: Any) -> RewardEndpointScorer:
    return RewardEndpointScorer(RewardEndpointJudge("reward_endpoint", "org/reward", server.url, **more), place)


def responses(*texts: str) -> list[Response]:
    return [Response(Prompt(TURNS), Answer(text)) for text in texts]


def test_the_whole_conversation_is_sent_and_the_raw_score_is_read(server: PoolingServer, place: ModelPlace) -> None:
    scores = scorer(server, place).score(responses("Leave it to me.", " No. "))
    assert [score.value for score in scores] == [1.5, 0.3]
    assert {body["messages"][-1]["content"] for body in server.bodies} == {"Leave it to me.", "No."}
    body = server.bodies[0]
    assert body["messages"][:2] == [
        {"role": "system", "content": "Be kind."}, {"role": "user", "content": "My lamp hums."}
    ]  # fmt: skip
    assert (body["model"], body["task"], body["use_activation"]) == ("org/reward", "classify", False)


def test_a_score_is_paid_once(server: PoolingServer, place: ModelPlace) -> None:
    first = scorer(server, place).score(responses("One.", "Two two."))
    assert scorer(server, place).score(responses("One.", "Two two.")) == first
    assert len(server.bodies) == 2


def test_a_list_for_each_token_gives_the_last_one(server: PoolingServer, place: ModelPlace) -> None:
    server.answer = lambda *_: (200, {"data": [{"data": [[0.1], [0.2], [0.7]]}]}, {})
    assert scorer(server, place).score(responses("One."))[0].value == 0.7


def test_what_passes_is_asked_again(server: PoolingServer, place: ModelPlace) -> None:
    faults = [(503, {}, {}), (429, {}, {"Retry-After": "0"}), (500, {}, {}), (200, b"<html>", {})]
    server.answer = lambda number, body: faults[number] if number < len(faults) else pooled(body)
    assert scorer(server, place).score(responses("Good."))[0].value == 0.5
    assert len(server.bodies) == len(faults) + 1


def test_a_server_that_fails_each_time_ends_the_run_and_what_it_gave_is_kept(
    server: PoolingServer, place: ModelPlace
) -> None:
    scorer(server, place).score(responses("One."))
    server.answer = lambda *_: (502, {}, {})
    with pytest.raises(NetworkError, match=rf"fails after {ATTEMPTS} attempts: 502 .* — start the server or wait"):
        scorer(server, place).score(responses("One.", "Two."))
    assert len(server.bodies) == 1 + ATTEMPTS
    server.answer = lambda _, body: pooled(body)
    scorer(server, place).score(responses("One.", "Two."))
    assert len(server.bodies) == 2 + ATTEMPTS


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "set the environment variable"), (404, "correct `winrate.judge.model`"), (400, "serve a")],
)
def test_what_does_not_pass_ends_the_run_at_once(
    server: PoolingServer, place: ModelPlace, status: int, advice: str
) -> None:
    server.answer = lambda *_: (status, {"error": {"message": "no"}}, {})
    with pytest.raises(ConfigError, match=rf"refuses the judge's call: {status} .* — {advice}"):
        scorer(server, place, at_once=1).score(responses("One."))
    assert len(server.bodies) == 1


def test_a_conversation_that_is_too_long_for_the_server_is_invalid(server: PoolingServer, place: ModelPlace) -> None:
    server.answer = lambda _, body: pooled(body) if len(body["messages"][-1]["content"]) < 9 else (400, TOO_LONG, {})
    short, long = scorer(server, place).score(responses("Good.", "Too long a reply."))
    assert short.value == 0.5
    assert (long.value, long.status) == (None, "invalid")


@pytest.mark.parametrize("data", [[], [0.1, 0.9], [[0.1, 0.9]], "AAAA", [None]])
def test_an_answer_without_one_score_is_refused(server: PoolingServer, place: ModelPlace, data: Any) -> None:
    server.answer = lambda *_: (200, {"data": [{"data": data}]}, {})
    with pytest.raises(ConfigError, match=r"gives no single score, .* — serve a reward model of one label"):
        scorer(server, place).score(responses("One."))


def test_the_key_comes_from_the_environment_and_stands_in_no_message(
    server: PoolingServer, place: ModelPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"the environment variable `REWARD_KEY`, .* is not set"):
        scorer(server, place, key="REWARD_KEY")
    monkeypatch.setenv("REWARD_KEY", "secret-12345")
    scorer(server, place, key="REWARD_KEY").score(responses("One."))
    assert server.keys == ["Bearer secret-12345"]

    server.answer = lambda *_: (403, {"error": {"message": "secret-12345 may not"}}, {})
    with pytest.raises(ConfigError) as caught:
        scorer(server, place, key="REWARD_KEY").score(responses("Two."))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"key": "sk-123"}, "`winrate.judge.key` is no name of an environment variable — write the variable's NAME"),
        ({"base_url": "127.0.0.1:8000"}, "`winrate.judge.base_url` is '127.0.0.1:8000' — write an address such as"),
        (
            {"base_url": "http://me:word@127.0.0.1"},
            "write an address such as http://127.0.0.1:8000, with nothing secret",
        ),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    values = {"kind": "reward_endpoint", "model": "m", "base_url": "http://127.0.0.1:1", **settings}
    with pytest.raises(ConfigError, match=message):
        winrate_config(judge=values)


def test_the_fingerprint_covers_server_model_and_dead_band(server: PoolingServer, place: ModelPlace) -> None:
    first = scorer(server, place).fingerprint
    assert scorer(server, place, dead_band=0.5).fingerprint != first
    assert scorer(server, place, at_once=2).fingerprint == first
