"""The section `winrate` of params.yaml."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, ClassVar

from tasks.core.errors import ConfigError
from tasks.core.section import Section, between
from tasks.estimation.bounds import ALPHA
from tasks.estimation.power import POWER
from tasks.judges.choice.kinds import JudgeChoice, PanelJudge
from tasks.judges.evidence.guards import GuardLimits
from tasks.judges.qualification.qualification import QualificationConfig
from tasks.judges.rules.rules import RulesConfig

SEED = 0  # of the sign flips, the length-controlled rate's bootstrap and the random judge


@dataclasses.dataclass(frozen=True)
class WinrateConfig(Section, path="winrate"):
    """How answers are judged, and the limits that the result must keep.

    Attributes:
        judge: The judge: a mapping with its `kind`.
        tie_margin: Rule scores that differ by so much or less are a tie.
        rules: The rules of the rule judge.
        qualification: What a judge is measured on before it judges answers.
        guards: The limits of the guards.
    """

    REMOVED: ClassVar[Mapping[str, str]] = {
        "alpha": f"delete it: intervals are at 1 - {ALPHA}; `register.gate.alpha` is the gate's",
        "power": f"delete it: the smallest detectable win rate is at a power of {POWER}",
        "seed": f"delete it: the seed is {SEED}",
    }

    judge: JudgeChoice
    tie_margin: Annotated[float, between(0, 1, "[)")]
    rules: RulesConfig
    qualification: QualificationConfig
    guards: GuardLimits

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.judge, PanelJudge):
            count = len(self.judge.members)
            if self.judge.quorum is not None and self.judge.quorum > count:
                raise ConfigError(f"`winrate.judge.quorum` is {self.judge.quorum}", f"write at most {count}")
            if sum(member.kind == "own" for member in self.judge.members) > 1:
                raise ConfigError("`winrate.judge.members` has `own` twice, and one head is fitted", "name it once")
