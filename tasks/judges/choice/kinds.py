"""The kinds of `winrate.judge`, each a mapping with its own keys."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from tasks.core.section import at_least, filled
from tasks.judges.llm.llm_choice import OpenAIJudge
from tasks.judges.models.model_choices import OwnJudge, RewardEndpointJudge, RewardModelJudge


@dataclasses.dataclass(frozen=True)
class AutoJudge:
    """The rules of `winrate.rules` for the demo; for other data the judge that learns from its pairs (`own`)."""

    kind: Literal["auto"]


@dataclasses.dataclass(frozen=True)
class RulesJudge:
    """The rules of `winrate.rules`."""

    kind: Literal["rules"]


@dataclasses.dataclass(frozen=True)
class ControlJudge:
    """A control, which ignores quality and promotes nothing: the longer answer, or a coin."""

    kind: Literal["length", "random"]


@dataclasses.dataclass(frozen=True)
class PythonJudge:
    """A class of one's own that is a pair judge or a scorer (see `tasks/judges/protocol`).

    Attributes:
        name: Where it is, as `package.module:Class`.
        settings: Its arguments.
    """

    kind: Literal["python"]
    name: Annotated[str, filled("write `package.module:Class`")]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


Single = RulesJudge | ControlJudge | PythonJudge | OpenAIJudge | OwnJudge | RewardModelJudge | RewardEndpointJudge


@dataclasses.dataclass(frozen=True)
class PanelJudge:
    """Several judges, each asked about every pair; the verdict is the mean of those that give one.

    Attributes:
        members: The judges, each a mapping with its `kind`.
        quorum: Fewest members that must give a verdict; null asks for more than half of them.
    """

    kind: Literal["panel"]
    members: Annotated[tuple[Single, ...], filled("name its judges, each a mapping with `kind`")]
    quorum: Annotated[int, at_least(1, "or null")] | None = None


JudgeChoice = AutoJudge | Single | PanelJudge
