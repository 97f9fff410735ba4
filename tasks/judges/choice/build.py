"""Builds the judge that `winrate.judge` names."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from tasks.core.errors import ConfigError
from tasks.core.files import digest_of, read_json, sha256_bytes
from tasks.judges.choice.config import SEED, WinrateConfig
from tasks.judges.choice.kinds import (
    AutoJudge,
    ControlJudge,
    JudgeChoice,
    PanelJudge,
    PythonJudge,
    RulesJudge,
)
from tasks.judges.games.runners import JudgeRunner, PairRunner, PanelRunner, ScoreRunner
from tasks.judges.llm.llm_choice import OpenAIJudge
from tasks.judges.llm.llm_judge import LlmJudge
from tasks.judges.models.model_choices import ModelJudge, ModelPlace, OwnJudge, RewardModelJudge
from tasks.judges.models.own_scorer import OwnScorer
from tasks.judges.models.reward_endpoint import RewardEndpointScorer
from tasks.judges.models.reward_scorer import RewardModelScorer
from tasks.judges.protocol.protocol import Scorer
from tasks.judges.rules.controls import LengthScorer, RandomJudge
from tasks.judges.rules.rules import RulesConfig, RuleScorer

CONTROLS = ("length", "random")
# The lists of the demo's rules, by the rules that use them, as digests: they say what a good reply of the demo's
# support desk is, and nothing of other data.
DEMO_LISTS = {
    "required": ("required_groups", "1e591fb94f945065"),
    "forbidden": ("forbidden_phrases", "5b5be3d3b7aafbe1"),
    "overlap": ("topic_words", "2b966217e3250a5c"),
}


def kind_of(config: WinrateConfig, pairs: Path) -> str:
    """Return the kind of the judge; `auto` is settled by the data."""
    return settled(config.judge, pairs).kind


def is_control(choice: JudgeChoice) -> bool:
    """Tell whether the judge, or any member of a panel, is a control."""
    members = choice.members if isinstance(choice, PanelJudge) else (choice,)
    return any(member.kind in CONTROLS for member in members)


def is_paid(choice: JudgeChoice) -> bool:
    """Tell whether the judge, or any member of a panel, is a service that may cost money."""
    members = choice.members if isinstance(choice, PanelJudge) else (choice,)
    return any(isinstance(member, OpenAIJudge) for member in members)


def is_demo(pairs: Path) -> bool:
    """Tell whether all pairs are the demo's."""
    return list(read_json(pairs / "metrics.json").get("rows_by_source", {})) == ["demo"]


def build_judge(config: WinrateConfig, pairs: Path, place: ModelPlace | None = None) -> JudgeRunner:
    """Return what asks the judge.

    Args:
        config: The section `winrate`.
        pairs: The folder that `ingest` wrote.
        place: Where a judge that is a model finds what it needs.

    Raises:
        ConfigError: The judge's settings do not suit the data, or its class is none.
        ArtifactError: A folder is missing or damaged.
    """
    choice = settled(config.judge, pairs)
    if isinstance(choice, PanelJudge):
        members = {
            _name(number, member): _build(member, config, pairs, place) for number, member in enumerate(choice.members)
        }
        return PanelRunner(members, choice.quorum or len(members) // 2 + 1)
    return _build(choice, config, pairs, place)


def settled(choice: JudgeChoice, pairs: Path) -> JudgeChoice:
    """Return the judge that is chosen; `auto` is settled by the data in the folder that `ingest` wrote."""
    if isinstance(choice, AutoJudge):
        return RulesJudge("rules") if is_demo(pairs) else OwnJudge("own")
    return choice


def _name(number: int, member: Any) -> str:
    return f"{number + 1} {member.kind}"


def _build(choice: JudgeChoice, config: WinrateConfig, pairs: Path, place: ModelPlace | None) -> JudgeRunner:
    if isinstance(choice, ModelJudge):
        if place is None:
            raise ConfigError(f"a judge of the kind {choice.kind!r} needs a place for its model", "give `place`")
        return ScoreRunner(_model_scorer(choice, place))
    if isinstance(choice, RulesJudge):
        if not is_demo(pairs):
            refuse_demo_rules(config.rules)
        return ScoreRunner(RuleScorer(config.rules, config.tie_margin))
    if isinstance(choice, ControlJudge):
        return ScoreRunner(LengthScorer()) if choice.kind == "length" else PairRunner(RandomJudge(SEED))
    if isinstance(choice, OpenAIJudge):
        return PairRunner(LlmJudge(choice))
    if isinstance(choice, PythonJudge):
        return _python_judge(choice)
    raise ConfigError(f"a judge of the kind {choice.kind!r} cannot be a panel's member", "choose another kind")


def _model_scorer(choice: ModelJudge, place: ModelPlace) -> Scorer:
    if isinstance(choice, OwnJudge):
        return OwnScorer(choice, place)
    if isinstance(choice, RewardModelJudge):
        return RewardModelScorer(choice, place)
    return RewardEndpointScorer(choice, place)


def own_choice(choice: JudgeChoice) -> OwnJudge | None:
    """Return the settings of the judge `own`, alone or in a panel; None where it is not chosen."""
    members = choice.members if isinstance(choice, PanelJudge) else (choice,)
    return next((member for member in members if isinstance(member, OwnJudge)), None)


def refuse_demo_rules(rules: RulesConfig) -> None:
    """Refuse rules that look for the demo's words in other data.

    Raises:
        ConfigError: A rule in use has the demo's own list.
    """
    for rule, (name, demo) in DEMO_LISTS.items():
        if rules.weights.get(rule) and list_digest(getattr(rules, name)) == demo:
            raise ConfigError(
                f"`winrate.rules.{name}` is the demo's, and says nothing of other data",
                "choose a judge with `winrate.judge: {kind: own}`, or write rules of your own",
            )


def list_digest(values: Any) -> str:
    """Return a digest of a list of the rules."""
    return digest_of(values)[:16]


def _python_judge(choice: PythonJudge) -> JudgeRunner:
    """Return the class that `name` says, called with `settings`, whose module is part of its fingerprint.

    Raises:
        ConfigError: It cannot be imported or called, or is neither a pair judge nor a scorer.
    """
    module_name, _, class_name = choice.name.partition(":")
    try:
        module = importlib.import_module(module_name)
        judge = getattr(module, class_name)(**choice.settings)
        source = sha256_bytes(inspect.getsource(module).encode())
    except Exception as error:
        raise ConfigError(
            f"`winrate.judge.name` is {choice.name!r}, which gives no judge ({type(error).__name__}: {error})",
            "write `package.module:Class` of a module that this checkout can import, and `settings` that it takes",
        ) from error
    if callable(getattr(judge, "score", None)):
        return ScoreRunner(judge, source)
    if callable(getattr(judge, "judge", None)):
        return PairRunner(judge, source)
    raise ConfigError(
        f"`winrate.judge.name` is {choice.name!r}, which has neither `judge` nor `score`",
        "see tasks/judges/protocol/protocol.py for the two protocols",
    )
