"""The gate: whether evidence is good enough to promote, as a pure function.

A candidate passes if

- the lower one-sided bound of its win rate (against the champion; on the first run against the reference) clears the
  threshold, on enough prompts,
- it is not shown to be worse than the champion against the fixed reference, by more than the tolerance,
- every guard passes, and enough prompts have a verdict.

A missing verdict counts as a loss. The k-th look at much the same prompts is tested at alpha * 6 / (pi * k)^2; these
levels sum to alpha over all looks. All bounds are those of :mod:`tasks.estimation.bounds`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Annotated, Any, ClassVar

from tasks.core.section import Section, at_least, between
from tasks.estimation.bounds import ALPHA, lower_bound, upper_bound
from tasks.estimation.power import EVEN, prompts_needed, smallest_detectable_win_rate, spent_alpha
from tasks.registry.log.evidence import Evidence

PASSED, FAILED, INCONCLUSIVE = "promote", "keep", "inconclusive"  # outcomes, of the gate and of each condition
UNBELIEVABLE = "not to be believed"  # how the reason for a failed guard begins
PAPERS = "judge_agreement"  # the guard on the judge's agreement with labelled pairs
MIN_COVERAGE = 0.98  # smallest share of prompts with a verdict; a missing verdict counts as a loss


@dataclasses.dataclass(frozen=True)
class GateConfig(Section, path="register.gate"):
    """What a candidate must show (params section `register.gate`).

    Attributes:
        alpha: The probability, over all looks at much the same prompts, of promoting a model that is not better.
        margin: How far above one half the lower bound must be, in win rate.
        tolerance: How much lower than the champion's the win rate against the reference may be. A candidate is refused
            where the upper bound of the paired difference shows a greater loss.
        min_prompts: The fewest prompts on which a first version may be promoted.
        min_shared_prompts: The fewest prompts on which candidate and champion may be compared.
    """

    REMOVED: ClassVar[Mapping[str, str]] = {"min_coverage": f"delete it: the limit is {MIN_COVERAGE}"}

    alpha: Annotated[float, between(0, EVEN, "()", "for example 0.05")] = 0.05
    margin: Annotated[float, between(0, EVEN, "[)")] = 0.0
    tolerance: Annotated[float, between(0, 1)] = 0.02
    min_prompts: Annotated[int, at_least(1)] = 50
    min_shared_prompts: Annotated[int, at_least(1)] = 50


@dataclasses.dataclass(frozen=True)
class Decision:
    """What the gate says, and why.

    Attributes:
        outcome: `promote`, `keep` (the alias stays where it is) or `inconclusive` (more prompts could decide).
        reasons: A sentence with its numbers for each condition, met or not.
        numbers: The numbers of these sentences, by name.
        champion: Digest of the version it was compared with; None on the first run.
        attempt: Which look at much the same prompts it was, from 1.
        gate: The conditions.
    """

    outcome: str
    reasons: tuple[str, ...]
    numbers: Mapping[str, float | int]
    champion: str | None
    attempt: int
    gate: GateConfig

    def looks(self) -> str:
        """Return a phrase on the looks at these prompts, which share ``alpha``."""
        spent = spent_alpha(self.gate.alpha, self.attempt)
        earlier = f"{self.attempt - 1} spent before" if self.attempt > 1 else "none spent before"
        return f"look {self.attempt} at these prompts, {earlier}, at alpha {spent:.5f} of {self.gate.alpha:g}"

    def as_json(self) -> dict[str, Any]:
        """Return the content of decision.json."""
        return {**dataclasses.asdict(self), "reasons": list(self.reasons), "numbers": dict(self.numbers)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Decision:
        """Rebuild a decision from the values of :meth:`as_json`; conditions added later are ignored."""
        known = {field.name for field in dataclasses.fields(GateConfig)}
        gate = GateConfig(**{key: value for key, value in record["gate"].items() if key in known})
        reasons, numbers = tuple(record["reasons"]), dict(record["numbers"])
        return cls(record["outcome"], reasons, numbers, record["champion"], record["attempt"], gate)


@dataclasses.dataclass(frozen=True)
class Finding:
    """The outcome that one condition alone would allow, the reason, and its numbers."""

    outcome: str
    reason: str
    numbers: Mapping[str, float | int] = dataclasses.field(default_factory=dict)


def decide(evidence: Evidence, champion: Evidence | None, attempts: int, config: GateConfig) -> Decision:
    """Decide whether the candidate may be promoted. Pure: no clock, no disk, no random numbers.

    Args:
        evidence: The candidate's.
        champion: The evidence of the version that the alias points to; None on the first run.
        attempts: Which look at much the same prompts this is, counted from 1.
        config: The conditions.
    """
    level = spent_alpha(config.alpha, attempts)
    guards = _guards(evidence)
    findings = [_against_opponent(evidence, champion, attempts, level, config)]
    findings += [] if champion is None else [_against_slide(evidence, champion, config)]
    findings += [_coverage(evidence)]
    # where a guard failed, no number below it is to be believed, so that is said first
    findings = [*findings, *guards] if guards[0].outcome == PASSED else [*guards, *findings]

    # the strictest outcome of all conditions decides
    outcomes = {finding.outcome for finding in findings}
    outcome = FAILED if FAILED in outcomes else INCONCLUSIVE if INCONCLUSIVE in outcomes else PASSED

    # the two that are shown: of the prompts with a verdict and at ALPHA, as in the evidence's own metrics
    judged = evidence.judged()
    numbers: dict[str, float | int] = {
        "win_rate": round(fmean(judged), 6),
        "lower_bound": round(lower_bound(judged, ALPHA), 6),
        "prompts": len(evidence.scores),
        "alpha_spent": round(level, 8),
    }
    for finding in findings:
        numbers |= finding.numbers

    digest = None if champion is None else champion.version
    return Decision(outcome, tuple(finding.reason for finding in findings), numbers, digest, attempts, config)


def _against_opponent(
    evidence: Evidence, champion: Evidence | None, attempt: int, level: float, config: GateConfig
) -> Finding:
    """Compare with the champion, or with the reference if there is none."""
    if champion is None:
        opponent, method, threshold = "against the reference", "", EVEN + config.margin
        scores, fewest, kind = evidence.credits(), config.min_prompts, "prompts"
    else:
        opponent, method, threshold = f"against the champion {champion.version[:12]}", "", EVEN + config.margin
        fewest, kind = config.min_shared_prompts, "shared prompts"
        duel = evidence.credits_against(champion.version)
        if duel is None:
            if why := evidence.differs_from(champion):
                reason = f"not comparable with the champion {champion.version[:12]}: {why}; judge them head to head"
                return Finding(INCONCLUSIVE, reason)
            method, threshold = " (half the paired difference of credits, plus 0.5)", EVEN + config.margin / 2
        scores = _paired(evidence, champion) if duel is None else duel

    if len(scores) < fewest:
        reason = f"{opponent}: {len(scores)} {kind}, {fewest} are needed"
        return Finding(INCONCLUSIVE, reason, {"compared_prompts": len(scores)})
    return _judge(opponent + method, scores, threshold, level, attempt, config)


def _paired(evidence: Evidence, champion: Evidence) -> list[float]:
    """Return half the difference of credits on each shared prompt, plus one half: a win rate, in [0, 1]."""
    return [EVEN + (score - champions) / 2 for score, champions in evidence.shared_with(champion)]


def _judge(
    opponent: str, scores: Sequence[float], threshold: float, level: float, attempt: int, config: GateConfig
) -> Finding:
    """Compare the lower bound of ``scores`` at ``level`` with ``threshold``, and say what could be shown."""
    average, bound = fmean(scores), lower_bound(scores, level)
    smallest = smallest_detectable_win_rate(len(scores), level, threshold)
    needed = prompts_needed(scores, spent_alpha(config.alpha, attempt + 1), threshold)

    outcome = PASSED if bound > threshold else INCONCLUSIVE if average > threshold else FAILED
    more = f"about {needed} prompts" if needed else "more prompts"
    said = {
        PASSED: f"clears {threshold:.4f}",
        INCONCLUSIVE: f"does not clear {threshold:.4f}, though the rate does: this look shows rates from "
        f"{smallest:.4f} on with a power of 80 %; if the rate is as observed, {more} would show it at the next look",
        FAILED: f"does not clear {threshold:.4f}, nor does the rate",
    }[outcome]

    facts = f"{average:.4f} on {len(scores)} prompts, lower bound {bound:.4f} (alpha {level:.5f}, look {attempt})"
    numbers = {
        "opponent_win_rate": round(average, 6),
        "opponent_lower_bound": round(bound, 6),
        "threshold": round(threshold, 6),
        "compared_prompts": len(scores),
        "smallest_detectable_win_rate": round(smallest, 6),
        **({"prompts_needed": needed} if needed and outcome == INCONCLUSIVE else {}),
    }
    return Finding(outcome, f"win rate {opponent} {facts} {said}", numbers)


def _against_slide(evidence: Evidence, champion: Evidence, config: GateConfig) -> Finding:
    """Refuse a slow decline: the candidate must not be shown to be worse than the champion against the reference.

    Both met the same reference, so their credits are paired on the shared prompts. Where that is impossible, the
    candidate's own lower bound must clear one half.
    """
    paired = _paired(evidence, champion)
    why = evidence.differs_from(champion)
    if not why and len(paired) < config.min_shared_prompts:
        why = f"they share {len(paired)} prompts, {config.min_shared_prompts} are needed"
    if why:
        scores = evidence.credits()
        bound = lower_bound(scores, config.alpha)
        outcome = PASSED if bound > EVEN else INCONCLUSIVE if fmean(scores) > EVEN else FAILED
        said = "clears" if outcome == PASSED else "does not clear"
        reason = (
            f"lower bound against the reference {bound:.4f} {said} {EVEN} (the champion's cannot be compared: {why})"
        )
        return Finding(outcome, reason, {"floor": EVEN})

    difference, highest = (2 * (rate - EVEN) for rate in (fmean(paired), upper_bound(paired, config.alpha)))
    is_worse = highest < -config.tolerance
    said = "is below" if is_worse else "is not shown to be below"
    reason = (
        f"win rate against the reference {said} the champion's less the tolerance {config.tolerance:.4f}: "
        f"paired difference {difference:.4f} on {len(paired)} prompts, upper bound {highest:.4f}"
    )
    numbers = {"difference": round(difference, 6), "difference_upper_bound": round(highest, 6)}
    return Finding(FAILED if is_worse else PASSED, reason, numbers)


def _coverage(evidence: Evidence) -> Finding:
    """Ask for enough verdicts; more of them could change the outcome, so too few are inconclusive."""
    is_met = evidence.coverage >= MIN_COVERAGE
    said = "reaches" if is_met else "is below"
    reason = f"coverage {evidence.coverage:.4f} {said} {MIN_COVERAGE:.4f}; missing verdicts count as losses"
    return Finding(PASSED if is_met else INCONCLUSIVE, reason, {"coverage": round(evidence.coverage, 6)})


def _guards(evidence: Evidence) -> list[Finding]:
    """Refuse for each guard that failed, if none was measured, and if the judge was never held against labels."""
    if not evidence.guards:
        return [Finding(FAILED, f"{UNBELIEVABLE}: the evidence holds no guard, so nothing was checked about it")]
    failed = [
        f"guard `{guard.name}` failed: value {guard.value}, limit {guard.limit}"
        for guard in evidence.guards
        if not guard.is_passed
    ]
    if PAPERS not in {guard.name for guard in evidence.guards}:
        failed.append(f"the judge showed no papers, for guard `{PAPERS}` is missing: judge again, `dvc repro winrate`")

    numbers = {"guards": len(evidence.guards), "guards_failed": len(failed)}
    if not failed:
        return [Finding(PASSED, f"all {len(evidence.guards)} guards passed", numbers)]
    return [Finding(FAILED, f"{UNBELIEVABLE}: {what}", numbers) for what in failed]
