"""The key of an endpoint: read where it is needed, sent, and found nowhere else."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tasks.core.errors import ConfigError, PipelineError
from tasks.core.params import build
from tasks.judges.llm.api_key import read_key
from tasks.judges.llm.llm_choice import OPENAI, OpenAIJudge
from tests.judges.llm.chat_server import ChatServer
from tests.judges.llm.judging import choice, comparisons, judged, runner

KEY = "sk-planted-8f2e61c09b"


def test_the_key_is_sent_and_stands_in_no_file_log_or_error(server: ChatServer, tmp_path, monkeypatch, caplog, capfd):
    """A server that repeats the key in errors and replies."""
    caplog.set_level(logging.INFO)  # the level of a stage's log
    monkeypatch.setenv("JUDGE_KEY", KEY)
    server.key = KEY
    server.plan = lambda number, body: "500" if number % 3 == 0 else "echo" if number % 7 == 0 else None
    judge = runner(server.url, tmp_path, key="JUDGE_KEY")
    verdicts = list(judge.verdicts(comparisons(30)))
    server.plan = lambda number, body: "400"
    with pytest.raises(ConfigError) as caught:
        judged(server.url, tmp_path, comparisons(40), key="JUDGE_KEY")
    server.plan = lambda number, body: "500"
    with pytest.raises(PipelineError) as stopped:
        judged(server.url, tmp_path, comparisons(50), key="JUDGE_KEY")

    texts = [str(caught.value), str(stopped.value), str(verdicts), caplog.text, *capfd.readouterr(), str(judge.usage)]
    assert any("***" in text for text in texts), "the server did repeat it"
    assert [text for text in texts if KEY in text] == []
    assert KEY.encode() not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_wrong_key_is_one_line_with_advice(server: ChatServer, tmp_path, monkeypatch):
    server.key = KEY
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another")
    with pytest.raises(ConfigError, match="401: Incorrect API key") as caught:
        judged(server.url, tmp_path, comparisons(1))
    assert "sk-another" not in str(caught.value)
    assert "`winrate.judge.key`" in caught.value.todo
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert len(judged(server.url, tmp_path, comparisons(1))) == 2


def test_a_local_server_needs_no_key(server: ChatServer, tmp_path):
    assert len(judged(server.url, tmp_path, comparisons(1))) == 2


@pytest.mark.parametrize(
    ("url", "key"), [(OPENAI, "OPENAI_API_KEY"), (f"{OPENAI}/", "OPENAI_API_KEY"), ("http://x/v1", "NOT_SET")]
)
def test_a_key_that_is_needed_or_named_and_is_not_there_is_asked_for(tmp_path, url, key):
    with pytest.raises(ConfigError, match=f"variable `{key}`, .* is not set"):
        read_key(choice(url, tmp_path, key=key))


@pytest.mark.parametrize("key", [KEY, "sk_live_abc", "hunter2", "", "prefect-block:Hunter2", "JUDGE KEY"])
def test_a_key_in_params_is_refused_without_being_repeated(tmp_path, key):
    with pytest.raises(ConfigError, match="key` is no name of a key") as caught:
        choice("http://x/v1", tmp_path, key=key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://me:hunter2@host/v1", "https://hunter2@host/v1", "https://host/v1?api-key=hunter2"]
)
def test_a_password_in_the_address_is_refused_without_being_repeated(url):
    with pytest.raises(ConfigError, match="base_url` holds a user") as caught:
        build(OpenAIJudge, {"kind": "openai", "model": "m", "base_url": url}, "winrate.judge")
    assert "hunter2" not in str(caught.value)


def test_a_block_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("prefect")
    monkeypatch.setattr("prefect.blocks.system.Secret.load", _missing)
    with pytest.raises(ConfigError, match=r"the Prefect block `secret/judge`.* cannot be read \(ValueError") as caught:
        read_key(choice("http://x/v1", tmp_path, key="prefect-block:judge"))
    assert "PREFECT_API_URL" in caught.value.todo


def _missing(name: str) -> None:
    raise ValueError(f"no document named {name}")


@pytest.mark.nightly
def test_a_key_lies_in_a_block_of_a_real_prefect_server(server: ChatServer, tmp_path: Path):
    from prefect.blocks.system import Secret
    from prefect.testing.utilities import prefect_test_harness

    server.key = KEY
    with prefect_test_harness():
        Secret(value=KEY).save("judge")
        assert len(judged(server.url, tmp_path, comparisons(1), key="prefect-block:judge")) == 2
