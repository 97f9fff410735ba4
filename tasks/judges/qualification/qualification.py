"""The judge's papers: agreement with labelled pairs and canaries, measured before any answer is judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from tasks.core.errors import ArtifactError
from tasks.core.files import read_json
from tasks.core.section import Section, at_least, between
from tasks.judges.games.games import Comparison, pair_up
from tasks.judges.games.runners import JudgeRunner, ScoreRunner
from tasks.judges.qualification.agreement import Agreement, agreement_of
from tasks.judges.qualification.canaries import canary_games, lost_shares
from tasks.judges.rules.controls import LengthScorer

LEAST_CANARIES_LOST = 0.9  # of the games of each kind
MOST_POSITION_BIAS = 0.2  # between one half and either end of the first-position share's interval
FEWEST_PAIRS = 20  # labelled pairs; fewer show nothing


@dataclasses.dataclass(frozen=True)
class QualificationConfig(Section, path="winrate.qualification"):
    """What a judge is measured on before it judges answers.

    Attributes:
        pairs: The most labelled pairs that it judges.
        file: Labelled pairs of one's own, as `ingest` reads a source; null takes the held-out pairs.
        min_agreement: What the lower bound of its agreement with the labels must lie above.
    """

    pairs: Annotated[int, at_least(FEWEST_PAIRS)]
    file: str | None
    min_agreement: Annotated[float, between(0.5, 1, "[)")]


@dataclasses.dataclass(frozen=True)
class Papers:
    """What is known of a judge.

    Attributes:
        judge: Its fingerprint.
        kind: Its kind.
        agreement: With the labels.
        length_agreement: That of the longer answer, which ignores quality, with the same labels.
        canaries: For each canary, the share of its games that it lost.
        min_agreement: What `agreement.bound` must lie above.
        learned_from: What it was fitted on, for a judge that is fitted here; None for any other.
    """

    judge: str
    kind: str
    agreement: Agreement
    length_agreement: Agreement
    canaries: Mapping[str, float]
    min_agreement: float
    learned_from: Mapping[str, Any] | None = None

    def faults(self) -> list[str]:
        """Return why the judge does not qualify, each as a sentence; nothing where it does."""
        agreement, faults = self.agreement, []
        if agreement.pairs < FEWEST_PAIRS:
            faults.append(f"only {agreement.pairs} labelled pairs were there to measure it; {FEWEST_PAIRS} are needed")
        if not agreement.bound > self.min_agreement:
            value = "none" if agreement.agreement is None else f"{100 * agreement.agreement.value:.1f} %"
            faults.append(
                f"it agrees with the labels on {value} of {agreement.decided} decided pairs: the lower bound "
                f"{agreement.bound:.3f} is not above {self.min_agreement:g}"
            )
        if not self.canaries:
            faults.append("no labelled pair has a good answer of five words or more to compare canaries with")
        faults += [
            f"the canary `{name}` lost {100 * share:.0f} % of its games; {100 * LEAST_CANARIES_LOST:.0f} % are needed"
            for name, share in self.canaries.items()
            if share < LEAST_CANARIES_LOST
        ]
        if self.position_bias > MOST_POSITION_BIAS and agreement.first_position_share:
            ends = agreement.first_position_share
            faults.append(f"it may prefer a position: the first answer's share is {ends.low:.2f} to {ends.high:.2f}")
        return faults

    @property
    def position_bias(self) -> float:
        """The greatest distance of the first-position share's interval from one half; 0 where scores decide."""
        share = self.agreement.first_position_share
        return max(abs(share.low - 0.5), abs(share.high - 0.5)) if share else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return all of it, as written to `metrics.json`."""
        facts = dataclasses.asdict(self) | {"canaries": dict(self.canaries), "position_bias": self.position_bias}
        return facts | {"faults": self.faults(), "qualified": not self.faults()}


def papers_of(
    judge: JudgeRunner,
    kind: str,
    pairs: Sequence[Comparison],
    min_agreement: float,
    learned_from: Mapping[str, Any] | None = None,
) -> Papers:
    """Let a judge judge labelled pairs and canaries, with the settings with which it is to judge answers."""
    judge.prepare([*pairs, *canary_games(pairs)])
    games = list(pair_up(judge.verdicts(pairs, "judging labelled pairs")))
    by_length = list(pair_up(ScoreRunner(LengthScorer()).verdicts(pairs, "comparing lengths")))
    lost = lost_shares(judge, pairs)
    agreements = agreement_of(games), agreement_of(by_length)
    return Papers(judge.fingerprint, kind, *agreements, lost, min_agreement, learned_from)


def read_papers(folder: Path, fingerprint: str) -> dict[str, Any]:
    """Return the papers that `qualify` wrote, checked to be those of this judge.

    Raises:
        ArtifactError: They are another judge's.
    """
    papers: dict[str, Any] = read_json(folder / "metrics.json")
    if papers.get("judge") != fingerprint:
        raise ArtifactError(f"{folder} holds the papers of another judge", "run `dvc repro qualify`")
    return papers
