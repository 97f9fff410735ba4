"""Answers from an OpenAI-compatible server: those of this machine, and only where it shows that the adapter is on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.core.base_model import BaseModel
from tasks.core.errors import ConfigError, NetworkError
from tasks.dpo.generation import server
from tasks.dpo.generation.server import ServerConfig
from tests.stages.completions_server import Manners, Model, serving
from tests.stages.responding import CONFIG, Inputs
from tests.stages.test_respond import CHAMPION, pin_champion

GREEDY = dataclasses.replace(CONFIG, temperature=0.0)
Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def manners() -> Manners:
    return Manners()


@pytest.fixture
def ask(inputs: Inputs, policy: Any, manners: Manners, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Runs the stage against a server with these manners; further words change `respond` or `respond.server`."""
    monkeypatch.setattr(server.time, "sleep", lambda _: None)
    model = Model(policy, BaseModel.open(inputs.base).load_tokenizer(), manners)
    with serving(model) as url:

        def ask(config: Any = GREEDY, **changes: Any) -> dict[str, Any]:
            chosen = ServerConfig(**{"base_url": url, "base": "bare", "policy": "tuned", **changes})
            return inputs.run(dataclasses.replace(config, server=chosen))

        yield ask


@pytest.mark.parametrize("gives", [("token_ids", "echo"), ("token_ids", "prompt_logprobs")])
@pytest.mark.parametrize("stop", ["auto", (" the", "big dog")])
def test_its_answers_are_those_of_this_machine(
    ask: Ask, inputs: Inputs, manners: Manners, gives: tuple[str, ...], stop: Any, tmp_path: Path
) -> None:
    manners.gives, config = gives, dataclasses.replace(GREEDY, stop=stop)
    metrics = ask(config)
    here = dataclasses.replace(inputs, out=tmp_path / "here")
    assert metrics["sides"] == here.run(config)["sides"]
    assert inputs.rows() == here.rows()
    assert metrics["adapter_max_abs_delta_logit"] > 0.1
    assert metrics["kl"] is None


def test_a_server_without_token_ids_gives_the_same_texts(ask: Ask, inputs: Inputs, manners: Manners, tmp_path: Path):
    manners.gives, config = ("echo",), dataclasses.replace(GREEDY, stop=(" the", "big dog"))
    ask(config)
    here = dataclasses.replace(inputs, out=tmp_path / "here")
    here.run(config)
    kept = ("prompt_id", "side", "sample", "text", "finish")
    assert [[row[key] for key in kept] for row in inputs.rows()] == [[row[key] for key in kept] for row in here.rows()]


def test_a_request_holds_the_prompts_own_tokens_and_all_settings(ask: Ask, inputs: Inputs, manners: Manners):
    ask(dataclasses.replace(CONFIG, top_k=7, repetition_penalty=1.2, stop=("x", "y")))
    bodies = [body for body in manners.bodies if "echo" not in body]
    prompts = [json.loads(line)["ids"] for line in (inputs.tokens / "prompts.jsonl").read_text().splitlines()]
    assert sorted(body["prompt"] for body in bodies) == sorted(prompts * 3)
    assert sorted(body["model"] for body in bodies) == ["bare"] * 10 + ["tuned"] * 5
    same = [dict(body, prompt=0, model=0, seed=0) for body in bodies]
    settings = {"temperature": 0.8, "top_p": 0.95, "top_k": 7, "repetition_penalty": 1.2, "max_tokens": 12, "n": 1}
    more = {"stop": ["x", "y"], "return_token_ids": True, "stop_token_ids": bodies[0]["stop_token_ids"]}
    assert all(body == {**settings, **more, "prompt": 0, "model": 0, "seed": 0} for body in same)
    assert len({body["seed"] for body in bodies}) == 15, "the control draws otherwise than the reference"


def test_a_server_that_drops_the_adapter_is_refused_before_anything_is_answered(
    ask: Ask, inputs: Inputs, manners: Manners
) -> None:
    manners.adapters = ()
    said = (
        r"tuned gives the log-probabilities of bare \(they differ by 0,.* does not apply the adapter — load the adapter"
    )
    with pytest.raises(ConfigError, match=said):
        ask()
    assert all("echo" in body for body in manners.bodies)
    assert not inputs.out.exists()
    manners.adapters = ("tuned",)  # as the advice says
    ask()


def test_the_champions_adapter_must_be_applied_too(ask: Ask, inputs: Inputs, adapter: Path, manners: Manners) -> None:
    pin_champion(inputs.champion, adapter)
    config = dataclasses.replace(GREEDY, champion=CHAMPION)
    with pytest.raises(ConfigError, match=r"`respond.server.champion` is not set — write the server's name"):
        ask(config)
    with pytest.raises(
        ConfigError, match=r"model best gives the log-probabilities of bare .* `respond.server.champion`"
    ):
        ask(config, champion="best")
    manners.adapters = ("tuned", "best")
    ask(config, champion="best")
    texts = {(row["prompt_id"], row["side"]): row["text"] for row in inputs.rows()}
    assert all(text == texts[prompt_id, "policy"] for (prompt_id, side), text in texts.items() if side == "champion")


def test_a_difference_within_the_servers_noise_is_no_adapter(ask: Ask, manners: Manners) -> None:
    manners.adapters, manners.noise = (), 1e-3
    with pytest.raises(ConfigError, match="does not apply the adapter"):
        ask()


def test_a_server_that_gives_no_log_probabilities_is_refused(ask: Ask, manners: Manners) -> None:
    manners.gives = ("token_ids",)
    with pytest.raises(ConfigError, match="no log-probabilities of a prompt's tokens for bare, so nothing shows"):
        ask()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "other"}, "the server answered as 'other', and was asked for 'bare' — correct the names"),
        ({"tokens_read": 99}, "read a prompt of .* tokens as 99 tokens, .* — use a server that takes token ids"),
        ({"broken": {"choices": ["text"]}}, "otherwise than with one answer — use a server that takes token ids"),
        ({"broken": {"error": "no"}}, "otherwise than with one answer — use a server that takes token ids"),
        ({"key": "k"}, "refused a request for bare: 401 .* — correct `respond.server`"),
        ({"faults": [404]}, "refused a request for bare: 404 .* — correct `respond.server`"),
        ({"faults": [302]}, "refused a request for bare: 302 .* — correct `respond.server`"),
    ],
)  # fmt: skip
def test_what_cannot_pass_is_refused_at_once(ask: Ask, manners: Manners, changes: dict[str, Any], said: str) -> None:
    for name, value in changes.items():
        setattr(manners, name, value)
    with pytest.raises(ConfigError, match=said):
        ask()
    assert len(manners.bodies) <= 1


def test_faults_that_may_pass_are_asked_again_and_no_longer_than_that(ask: Ask, manners: Manners) -> None:
    manners.faults = [429, 503, 500, 502, 408]
    ask()
    manners.faults = [503] * 100
    with pytest.raises(NetworkError, match="did not answer in 6 attempts: 503"):
        ask(dataclasses.replace(GREEDY, seed=2))
    assert len(manners.faults) == 94


def test_after_a_refusal_nothing_more_is_asked(ask: Ask, inputs: Inputs, manners: Manners) -> None:
    ask()
    probes = sum("echo" in body for body in manners.bodies)
    manners.bodies.clear()
    manners.finish = "abort"
    with pytest.raises(NetworkError):
        ask(dataclasses.replace(GREEDY, seed=2), connections=1)
    assert len(manners.bodies) <= probes + 2


def test_a_reply_that_is_no_object_is_asked_for_again(ask: Ask, manners: Manners) -> None:
    manners.broken = ["no object"]
    with pytest.raises(NetworkError, match="did not answer in 6 attempts: its reply is no JSON object"):
        ask()


@pytest.mark.parametrize("url", ["localhost:8000/v1", "file:///etc/passwd", "http://user:key@host/v1", ""])
def test_an_address_that_is_none_or_holds_a_key_is_refused_by_name(ask: Ask, url: str) -> None:
    with pytest.raises(ConfigError, match=r"`respond.server.base_url` is .* — write an address without a key"):
        ask(base_url=url)


def test_an_answer_that_the_server_broke_off_is_no_answer(ask: Ask, inputs: Inputs, manners: Manners) -> None:
    manners.finish = "abort"
    with pytest.raises(NetworkError, match="ended an answer for the reason 'abort'"):
        ask()
    assert not inputs.out.exists()


def test_a_server_that_is_not_there_is_named(ask: Ask) -> None:
    with pytest.raises(
        NetworkError, match=r"http://127.0.0.1:9/v1/completions did not answer in 6 attempts: .*refused"
    ):
        ask(base_url="http://127.0.0.1:9/v1")


def test_the_key_is_read_from_the_environment_and_never_shown(
    ask: Ask, inputs: Inputs, manners: Manners, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match="key_env` is SOME_KEY, which is not set — export the server's key"):
        ask(key_env="SOME_KEY")
    manners.key = "sk-right"
    monkeypatch.setenv("SOME_KEY", "sk-secret-wrong")
    with pytest.raises(ConfigError, match=r"401 .*Bearer \*\*\*") as caught:
        ask(key_env="SOME_KEY")
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("SOME_KEY", "sk-right")
    ask(key_env="SOME_KEY")
    written = "".join(path.read_text() for path in inputs.out.iterdir()) + caplog.text
    assert "sk-" not in written
