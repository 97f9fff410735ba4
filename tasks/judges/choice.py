"""Builds the judge that `winrate.judge` names."""

from __future__ import annotations

from typing import Literal

from tasks.judges.controls import LengthJudge, RandomJudge
from tasks.judges.protocol import Judge
from tasks.judges.rules import RuleJudge, RulesConfig

JudgeKind = Literal["rules", "length", "random"]
CONTROLS: tuple[JudgeKind, ...] = ("length", "random")


def build_judge(kind: JudgeKind, rules: RulesConfig, tie_margin: float, seed: int) -> Judge:
    """Return the judge of a kind; `length` and `random` are controls, which ignore quality."""
    if kind == "rules":
        return RuleJudge(rules, tie_margin)
    return LengthJudge() if kind == "length" else RandomJudge(seed)
