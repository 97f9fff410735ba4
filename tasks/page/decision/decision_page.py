"""The page of the gate's decision: reasons, numbers, the judge, and the versions up to this one.

It depends on the evidence and on the registry's log alone. What the judge took and when versions were registered is no
part of a result, so only the page that is made for this machine has it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core.params import parse_params
from tasks.page.facts import PapersFacts
from tasks.page.readers.json_node import read_node
from tasks.page.readers.read_papers import read_papers
from tasks.page.webpage import environment
from tasks.page.words import UNBELIEVABLE, guards_failed
from tasks.registry.gate.gate import FAILED, INCONCLUSIVE, PASSED, Decision
from tasks.registry.log.entries import PROMOTE
from tasks.registry.log.history import History
from tasks.registry.log.names import short
from tasks.registry.release.release import Release

FOLDER = Path(__file__).parent
PAGE = "decision.html"
_WORDS = {
    FAILED: "a condition of the gate is not met",
    INCONCLUSIVE: "the evidence is inconclusive, and more prompts could tell",
}


@dataclasses.dataclass(frozen=True)
class VersionRow:
    """One version in the history: what was decided when it was registered.

    Attributes:
        version: Its serial number and the beginning of its digest.
        when: The time of its registration, UTC.
        win_rate: As the gate read it.
        lower_bound: As the gate read it.
        outcome: What the gate decided, and whether guards failed.
        is_promoted: Whether the alias was moved to it.
        is_this: Whether the page is about it.
    """

    version: str
    when: str
    win_rate: float | None
    lower_bound: float | None
    outcome: str
    is_promoted: bool
    is_this: bool


@dataclasses.dataclass(frozen=True)
class DecisionPage:
    """All that the page states.

    Attributes:
        name: The series of versions.
        alias: The alias that the decision is about.
        release: What was registered and decided.
        failed_guards: The guards that did not pass.
        papers: Those of the judge; None for evidence of before judges had some.
        versions: The versions up to this one, the newest first.
    """

    name: str
    alias: str
    release: Release
    failed_guards: tuple[str, ...]
    papers: PapersFacts | None
    versions: tuple[VersionRow, ...]

    @property
    def headline(self) -> str:
        """What was decided, in one sentence."""
        version = f"{self.name} v{self.release.serial}" if self.release.is_registered else self.name
        if self.failed_guards:
            failed = guards_failed(self.failed_guards)
            what = "though {} was promoted" if self.release.is_promoted else "so {} was not promoted"
            return f"{UNBELIEVABLE}, {what.format(version)}: {failed}."
        if not self.release.is_registered:
            would = "would promote it" if self.decision.outcome == PASSED else "would not promote it"
            return f"{version} was judged in an experiment and not registered; the gate {would}."
        if self.release.is_promoted:
            by = "" if self.decision.outcome == PASSED else " by a person, against the gate"
            return f"{version} was promoted to {self.alias}{by}."
        return f"{version} was not promoted: {_WORDS.get(self.decision.outcome, 'it is deprecated')}."

    @property
    def decision(self) -> Decision:
        """The gate's decision."""
        return self.release.decision

    def render(self, usage: Mapping[str, str] | None = None) -> str:
        """Return the page.

        Args:
            usage: For each stage that asked the judge, what that took; None for the page that is part of the result,
                which tells no times either.
        """
        template = environment(FOLDER).get_template("decision.html.jinja")
        return template.render(page=self, decision=self.decision, papers=self.papers, usage=usage)


def decision_page(
    name: str, history: History, release: Release, alias: str, winrate: Path, params: str
) -> DecisionPage:
    """Gather what the page states.

    Args:
        name: The series of versions.
        history: The registry's log.
        release: What was registered and decided.
        alias: The alias that the decision is about.
        winrate: The folder of the evidence.
        params: Text of params.yaml, whose `winrate.judge` names the judge; empty for none.

    Raises:
        ArtifactError: The evidence lacks a key.
        ConfigError: The params are no mapping.
    """
    metrics = read_node(winrate / "metrics.json", "winrate")
    guards = metrics.node("guards").nodes()
    choice = (parse_params(params, "params.yaml").get("winrate") or {}).get("judge") if params else None
    return DecisionPage(
        name=name,
        alias=alias,
        release=release,
        failed_guards=tuple(key for key, guard in sorted(guards.items()) if not guard.get("passed")),
        papers=read_papers(metrics.node("qualification"), choice) if "qualification" in metrics.values else None,
        versions=_versions(history, release.digest, alias),
    )


def _versions(history: History, digest: str, alias: str) -> tuple[VersionRow, ...]:
    """Return the versions registered up to ``digest``, the newest first: later ones must not change its page."""
    entry = history.registered.get(digest)
    last = math.inf if entry is None else entry.number
    moves = [one for one in history.entries if one.event.action == PROMOTE and one.event.alias == alias]
    promoted = {move.event.version for move in moves if move.number <= last or move.event.version == digest}

    rows = []
    for version, serial in history.serials().items():
        registration = history.registered[version]
        if registration.number <= last:
            decision: Mapping[str, Any] = registration.event.decision or {}
            numbers = decision.get("numbers", {})
            doubt = "; guards failed" if numbers.get("guards_failed") else ""
            row = VersionRow(
                version=f"v{serial} {short(version)}",
                when=registration.when,
                win_rate=numbers.get("win_rate"),
                lower_bound=numbers.get("lower_bound"),
                outcome=f"{decision.get('outcome', 'unknown')}{doubt}",
                is_promoted=version in promoted,
                is_this=version == digest,
            )
            rows.append(row)
    return tuple(reversed(rows))
