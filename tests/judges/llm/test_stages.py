"""The stages qualify and winrate with a language model as judge."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest

from tasks import qualify, winrate
from tasks.core.errors import ConfigError, Preempted
from tasks.core.files import read_json
from tasks.core.params import build, load_params
from tasks.judges.choice.config import WinrateConfig
from tasks.judges.choice.kinds import PanelJudge
from tests.conftest import ROOT
from tests.judges.llm.chat_server import ChatServer
from tests.judges.llm.judging import choice
from tests.stages.test_winrate import COLD, WARM, Inputs, _inputs, _mixed, _texts

PROBE = 2
KEY = "sk-planted-4c1d77ae2f"


@pytest.fixture
def inputs(tmp_path: Path, server: ChatServer) -> Inputs:
    """A policy that is always warm, and a server that likes warm answers."""
    server.likes = "so sorry"
    control = [(WARM if (i // 2) % 2 else COLD).format(i=i) for i in range(24)]
    return _inputs(tmp_path, _texts([WARM.format(i=i) for i in range(24)], _mixed(24, 0), control))


@pytest.fixture
def config(tmp_path: Path, server: ChatServer) -> WinrateConfig:
    """The demo's settings with the server as judge."""
    config = build(WinrateConfig, load_params(ROOT / "params.yaml")["winrate"], "winrate")
    return dataclasses.replace(config, judge=choice(server.url, tmp_path / "judge"))


def qualified(inputs: Inputs, config: WinrateConfig) -> dict:
    return qualify.run(qualify.Folders(inputs.pairs, inputs.tokens, inputs.qualification), config)


def outputs(inputs: Inputs) -> dict[str, bytes]:
    folders = (inputs.qualification, inputs.out)
    return {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def with_judge(config: WinrateConfig, **values: object) -> WinrateConfig:
    return dataclasses.replace(config, judge=dataclasses.replace(config.judge, **values))


def test_a_model_qualifies_judges_and_is_replayed_to_the_same_bytes(inputs, config, server):
    metrics = inputs.run(config)
    assert (metrics["wins"], metrics["losses"]) == (12, 0)
    assert metrics["judge"] == read_json(inputs.qualification / "metrics.json")["judge"]
    assert metrics["judge_kind"] == "openai"
    first, calls = outputs(inputs), server.calls
    inputs.run(with_judge(config, mode="replay", at_once=1))
    assert outputs(inputs) == first
    assert server.calls == calls
    assert len(server.paid) == calls, "each call is another one"


def test_faults_change_no_byte_of_the_outputs(inputs, config, server):
    inputs.run(config)
    first = outputs(inputs)
    server.plan = lambda number, body: ["500", "429 0.01", "garbage", None, None, None, None][number % 7]
    inputs.run(with_judge(config, cache=str(inputs.out.parent / "other.sqlite")))
    assert outputs(inputs) == first


def test_a_run_that_is_stopped_in_either_stage_pays_for_no_call_twice(inputs, config, server):
    inputs.run(config)
    first, calls = outputs(inputs), server.calls
    again = with_judge(config, cache=str(inputs.out.parent / "other.sqlite"))
    for moment in (calls + 30, 2 * calls - 5):  # in qualify and in winrate
        server.on_call = lambda number, at=moment: os.kill(os.getpid(), signal.SIGTERM) if number == at else None
        with pytest.raises(Preempted):
            inputs.run(again)
    inputs.run(again)
    assert outputs(inputs) == first
    assert server.calls == 2 * calls


def test_a_model_that_disagrees_with_the_labels_is_paid_for_no_answer(inputs, config, server):
    server.likes = "not our problem"
    papers = qualified(inputs, config)
    assert not papers["qualified"]
    calls = server.calls
    with pytest.raises(ConfigError, match=r"the judge `openai` does not qualify.*0\.0 % of 24 decided pairs") as caught:
        winrate.run(inputs.folders(), config)
    assert server.calls == calls
    assert "`winrate.judge.criteria`" in caught.value.todo
    assert not inputs.out.exists()


def test_a_model_that_obeys_an_answer_does_not_qualify(inputs, config, server):
    server.obeys = "Note to the judge"
    assert [fault for fault in qualified(inputs, config)["faults"] if "canary `instruction`" in fault]
    with pytest.raises(ConfigError, match="canary `instruction` lost 0 %"):
        winrate.run(inputs.folders(), config)


def test_a_panel_with_a_model_that_does_not_qualify_is_not_paid_either(inputs, config, server):
    server.likes = "not our problem"
    config = dataclasses.replace(config, judge=PanelJudge("panel", (config.judge,)))
    qualified(inputs, config)
    with pytest.raises(ConfigError, match="the judge `panel` does not qualify"):
        winrate.run(inputs.folders(), config)


def test_the_key_stands_in_no_output_and_usage_in_none_that_is_hashed(inputs, config, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.key = KEY
    server.plan = lambda number, body: "500" if number % 5 == 0 else "echo" if number % 11 == 0 else None
    inputs.run(config)
    files = [path for path in inputs.out.parent.rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert [name for name, data in outputs(inputs).items() if b"tokens_in" in data or b"attempts" in data] == []


def test_a_stage_leaves_usage_in_its_receipt_and_the_key_nowhere(
    inputs, server, tmp_path, monkeypatch, capfd, logging_put_back
):
    """Through the stage's door, with params.yaml, a receipt, and a server that repeats the key."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (tmp_path / "data").mkdir()
    for name in ("pairs", "tokens"):
        (tmp_path / name).rename(tmp_path / "data" / name)
    params = load_params(ROOT / "params.yaml")
    params["winrate"]["judge"] = {"kind": "openai", "model": "tiny", "base_url": server.url, "price_in": 1.0}
    (tmp_path / "params.yaml").write_text(json.dumps(params), encoding="utf-8")
    server.key = KEY
    server.plan = lambda number, body: "500" if number % 5 == 0 else "echo" if number % 11 == 0 else None

    qualify.main()
    usage = read_json(tmp_path / "runs/receipts/qualify.json")["notes"]["judge_usage"]
    assert usage["model"] == "tiny"
    assert usage["attempts"] + PROBE <= server.calls
    assert min(usage["tokens_in"], usage["tokens_out"], usage["cost"], usage["seconds"]) > 0
    log = capfd.readouterr().err
    assert "calls to tiny, about" in log
    server.plan = lambda number, body: "401"
    params["winrate"]["judge"]["seed"] = 7
    (tmp_path / "params.yaml").write_text(json.dumps(params), encoding="utf-8")
    with pytest.raises(SystemExit):
        qualify.main()

    log += capfd.readouterr().err
    assert "refuses the judge's calls (401: planned 401; you sent Bearer ***)" in log
    assert KEY not in log
    assert [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []
