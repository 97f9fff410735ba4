"""The judge that params name: by kind, refused by name, and never the demo's rules on other data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import ConfigError
from tasks.core.params import build, load_params, load_section
from tasks.judges.choice.build import DEMO_LISTS, build_judge, is_control, kind_of, list_digest
from tasks.judges.choice.config import WinrateConfig
from tasks.judges.games.runners import PairRunner, PanelRunner, ScoreRunner
from tests.conftest import ROOT

CLASS = """
from tasks.core.files import digest_of
from tasks.judges.protocol.protocol import Score


class Short:
    is_soft, dead_band = False, 0.0

    def __init__(self, most=10):
        self.fingerprint = digest_of(["short", most])
        self.most = most

    def score(self, responses):
        return [Score(-float(len(response.answer.text))) for response in responses]


class Neither:
    fingerprint = "neither"
"""


def config_with(judge: Any) -> WinrateConfig:
    """The section as params.yaml has it, with another judge."""
    values = load_params(ROOT / "params.yaml")["winrate"]
    return build(WinrateConfig, {**values, "judge": judge}, "winrate")


def pairs_of(folder: Path, *sources: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps({"rows_by_source": dict.fromkeys(sources, 5)}))
    return folder


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    return pairs_of(tmp_path / "demo", "demo")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return pairs_of(tmp_path / "other", "demo", "feedback.jsonl")


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("rules", r"`winrate.judge` is 'rules' — write a mapping with a `kind`, one of: auto, rules, "),
        ({"kind": "llm"}, r"`winrate.judge.kind` is 'llm' — choose one of: auto, rules, "),
        ({"kind": "rules", "model": "x"}, r"unknown key `winrate.judge.model`"),
        ({"kind": "python"}, r"`winrate.judge.name` is missing"),
        ({"kind": "panel", "members": []}, r"`winrate.judge.members` is \(\) — name its judges"),
        ({"kind": "panel", "members": [{"kind": "nobody"}]}, r"`winrate.judge.members\[0\].kind` is 'nobody'"),
        ({"kind": "panel", "members": [{"kind": "rules"}], "quorum": 2}, r"quorum` is 2 — write at most 1"),
        ({"kind": "panel", "members": [{"kind": "rules"}], "quorum": 0}, r"quorum` is 0 — write 1 or more"),
    ],
)
def test_a_wrong_judge_is_refused_by_name(judge: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_with(judge)


def test_auto_is_the_rules_for_the_demo(demo: Path) -> None:
    config = config_with({"kind": "auto"})
    assert kind_of(config, demo) == "rules"
    assert build_judge(config, demo).fingerprint == build_judge(config_with({"kind": "rules"}), demo).fingerprint


def test_the_digests_are_those_of_the_demos_rules() -> None:
    rules = load_section(ROOT / "params.yaml", "winrate", WinrateConfig).rules
    assert {name: list_digest(getattr(rules, name)) for name, _ in DEMO_LISTS.values()} == dict(DEMO_LISTS.values())


def test_the_demos_rules_are_refused_for_other_data_and_the_advice_helps(other: Path) -> None:
    config = config_with({"kind": "rules"})
    with pytest.raises(
        ConfigError, match=r"`winrate.rules.required_groups` is the demo's.*`winrate.judge: \{kind: own"
    ):
        build_judge(config, other)

    # rules of one's own, and without the lists of the demo
    weights = {"length": 1, "ending": 1}
    own = dataclasses.replace(config, rules=dataclasses.replace(config.rules, weights=weights))
    assert isinstance(build_judge(own, other), ScoreRunner)


def test_a_class_of_ones_own_is_a_judge(tmp_path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_judges.py").write_text(CLASS)
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"kind": "python", "name": "my_judges:Short", "settings": {"most": 3}}
    judge = build_judge(config_with(settings), demo)
    assert isinstance(judge, ScoreRunner)
    assert judge.fingerprint != build_judge(config_with({**settings, "settings": {}}), demo).fingerprint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_wrong:Neither", "has neither `judge` nor `score`"),
        ("my_wrong:Nobody", "gives no judge .AttributeError"),
        ("no_module_here:Nobody", "gives no judge .ModuleNotFoundError"),
        ("my_wrong", "gives no judge"),
    ],
)
def test_a_class_that_is_no_judge_is_refused(
    name: str, message: str, tmp_path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_wrong.py").write_text(CLASS)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=message):
        build_judge(config_with({"kind": "python", "name": name}), demo)


def test_a_panel_has_its_members_and_asks_for_more_than_half(demo: Path) -> None:
    config = config_with({"kind": "panel", "members": [{"kind": "rules"}, {"kind": "random"}, {"kind": "length"}]})
    panel = build_judge(config, demo)
    assert isinstance(panel, PanelRunner)
    assert is_control(config.judge)
    written = config_with({"kind": "panel", "members": config_members(config), "quorum": 2})
    assert build_judge(written, demo).fingerprint == panel.fingerprint


def config_members(config: WinrateConfig) -> list[dict[str, Any]]:
    return [{"kind": member.kind} for member in config.judge.members]  # type: ignore[union-attr]


@pytest.mark.parametrize(("kind", "runner"), [("rules", ScoreRunner), ("length", ScoreRunner), ("random", PairRunner)])
def test_every_kind_is_asked_as_its_protocol_wants(kind: str, runner: type, demo: Path) -> None:
    config = config_with({"kind": kind})
    judge = build_judge(config, demo)
    assert isinstance(judge, runner)
    assert len(judge.fingerprint) == 64
    assert is_control(config.judge) == (kind != "rules")
