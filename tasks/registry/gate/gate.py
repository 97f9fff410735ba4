"""The gate: whether evidence is good enough to promote, as a pure function.

A candidate is promoted when the lower one-sided bound of its win rate (against the champion; on the
first run against the reference) clears the threshold, its bound against the fixed reference has not
slid below the champion's by more than the tolerance, every guard passes, and enough verdicts came
back. A missing verdict counts as a loss. The k-th look at much the same prompts may err with
alpha * 6 / (pi * k)^2, which sums to alpha over all looks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Annotated, Any, ClassVar

from tasks.core.section import Section, at_least, between
from tasks.registry.log.evidence import Evidence

PROMOTE, KEEP, INCONCLUSIVE = "promote", "keep", "inconclusive"
EVEN = 0.5  # the win rate of two equals
MIN_COVERAGE = 0.98  # smallest share of prompts with a verdict; a missing verdict counts as a loss
_NORMAL_FROM = 100  # prompts from which the normal approximation stands alone


@dataclasses.dataclass(frozen=True)
class GateConfig(Section, path="register.gate"):
    """What a candidate must show (params section `register.gate`).

    Attributes:
        alpha: The chance, over all looks at much the same prompts, of promoting what is not better.
        margin: How far above one half the bound must lie, in win rate.
        tolerance: How far the bound against the reference may lie below the champion's own.
        min_shared_prompts: The fewest prompts on which candidate and champion may be compared.
    """

    REMOVED: ClassVar[Mapping[str, str]] = {"min_coverage": f"delete it: the limit is {MIN_COVERAGE}"}

    alpha: Annotated[float, between(0, EVEN, "()", "for example 0.05")] = 0.05
    margin: Annotated[float, between(0, EVEN, "[)")] = 0.0
    tolerance: Annotated[float, between(0, 1)] = 0.02
    min_shared_prompts: Annotated[int, at_least(1)] = 50


@dataclasses.dataclass(frozen=True)
class Decision:
    """What the gate says, and why.

    Attributes:
        outcome: `promote`, `keep` (what stands now is to stay) or `inconclusive` (more prompts could tell).
        reasons: A sentence with its numbers for every condition, met or not.
        numbers: The numbers of those sentences, by name.
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

    def as_json(self) -> dict[str, Any]:
        """Return the content of decision.json."""
        return {**dataclasses.asdict(self), "reasons": list(self.reasons), "numbers": dict(self.numbers)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Decision:
        """Rebuild a decision from what :meth:`as_json` gave."""
        known = {field.name for field in dataclasses.fields(GateConfig)}
        gate = GateConfig(**{key: value for key, value in record["gate"].items() if key in known})
        reasons, numbers = tuple(record["reasons"]), dict(record["numbers"])
        return cls(record["outcome"], reasons, numbers, record["champion"], record["attempt"], gate)


@dataclasses.dataclass(frozen=True)
class Finding:
    """The outcome that one condition alone would allow, why, and its numbers."""

    outcome: str
    reason: str
    numbers: Mapping[str, float | int] = dataclasses.field(default_factory=dict)


def decide(evidence: Evidence, champion: Evidence | None, attempts: int, config: GateConfig) -> Decision:
    """Decide whether the candidate may be promoted. Pure: no clock, no disk, no chance.

    Args:
        evidence: The candidate's.
        champion: The evidence of the version that the alias names; None on the first run.
        attempts: Which look at much the same prompts this is, counted from 1.
        config: The conditions.
    """
    level = spent_alpha(config.alpha, attempts)
    findings = [_against_opponent(evidence, champion, attempts, level, config)]
    findings += [] if champion is None else [_against_slide(evidence, champion, config)]
    findings += [_coverage(evidence), *_guards(evidence)]
    outcomes = {finding.outcome for finding in findings}
    outcome = KEEP if KEEP in outcomes else INCONCLUSIVE if INCONCLUSIVE in outcomes else PROMOTE
    scores = evidence.credits()
    numbers: dict[str, float | int] = {
        "win_rate": round(mean(scores), 6),
        "lower_bound": round(lower_bound(scores, config.alpha), 6),
        "prompts": len(scores),
        "alpha_spent": round(level, 8),
    }
    for finding in findings:
        numbers |= finding.numbers
    digest = None if champion is None else champion.version
    return Decision(outcome, tuple(finding.reason for finding in findings), numbers, digest, attempts, config)


def spent_alpha(alpha: float, attempt: int) -> float:
    """Return the level of the ``attempt``-th look (from 1); over all looks the levels sum to ``alpha``."""
    return alpha * 6 / (math.pi * attempt) ** 2


def mean(scores: Sequence[float]) -> float:
    """Return the mean, the same for every order of the scores."""
    return math.fsum(scores) / len(scores)


def lower_bound(scores: Sequence[float], alpha: float) -> float:
    """Return the lower one-sided bound at ``alpha`` of the mean of scores in [0, 1].

    Hard or equal scores take Wilson's bound, others mean - z * sd / sqrt(n). Below 100 prompts the
    lower of the two: there the normal approximation is too sure of itself, and Wilson's, which
    supposes the largest possible spread, is on the safe side. Ties narrow the spread without telling
    anything: below 100 prompts that are none, the bound is at most what these alone would give.
    """
    count, average = len(scores), mean(scores)
    z = -NormalDist().inv_cdf(alpha)
    wilson = _wilson_lower(average, count, z)
    if count < 2 or set(scores) <= {0.0, 1.0} or len(set(scores)) == 1:
        return wilson
    variance = math.fsum((score - average) ** 2 for score in scores) / (count - 1)
    bounds = [average - z * math.sqrt(variance / count), _decided_lower(scores, alpha)]
    return min(bounds if count >= _NORMAL_FROM else [*bounds, wilson])


def _decided_lower(scores: Sequence[float], alpha: float) -> float:
    """Return Clopper and Pearson's lower bound (1934) of the mean of those that are no ties, with the ties put back."""
    decided = [score for score in scores if score != EVEN]
    if len(decided) in (0, len(scores)) or len(decided) >= _NORMAL_FROM:
        return math.inf
    from scipy.special import betaincinv

    won = math.fsum(decided)
    share = float(betaincinv(won, len(decided) - won + 1, alpha)) if won else 0.0
    return EVEN + (share - EVEN) * len(decided) / len(scores)


def _wilson_lower(share: float, count: int, z: float) -> float:
    """Return Wilson's lower bound of a share (Wilson 1927; Agresti and Coull 1998, eq. 2)."""
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return max(0.0, (centre - spread) / (1 + z * z / count))


def _against_opponent(
    evidence: Evidence, champion: Evidence | None, attempt: int, level: float, config: GateConfig
) -> Finding:
    """Compare with the champion, or with the reference where there is none."""
    threshold = EVEN + config.margin
    if champion is None:
        return _judge("against the reference", evidence.credits(), threshold, level, attempt)
    opponent = f"against the champion {champion.version[:12]}"
    duel = evidence.credits_against(champion.version)
    if duel is not None:
        return _enough(duel, opponent, config) or _judge(opponent, duel, threshold, level, attempt)
    if why := evidence.differs_from(champion):
        reason = f"not comparable with the champion {champion.version[:12]}: {why}; judge them head to head"
        return Finding(INCONCLUSIVE, reason)
    # A difference of credits lies in [-1, 1]; halved and moved by one half it is a win rate again.
    shared = [EVEN + (ours - theirs) / 2 for ours, theirs in evidence.shared_with(champion)]
    paired = f"{opponent} (half the paired difference of credits, plus 0.5)"
    return _enough(shared, opponent, config) or _judge(paired, shared, EVEN + config.margin / 2, level, attempt)


def _enough(scores: Sequence[float], opponent: str, config: GateConfig) -> Finding | None:
    if len(scores) >= config.min_shared_prompts:
        return None
    numbers = {"compared_prompts": len(scores)}
    reason = f"{opponent}: {len(scores)} shared prompts, {config.min_shared_prompts} are needed"
    return Finding(INCONCLUSIVE, reason, numbers)


def _judge(opponent: str, scores: Sequence[float], threshold: float, level: float, attempt: int) -> Finding:
    """Hold the lower bound of ``scores`` at ``level`` against ``threshold``."""
    average, bound = mean(scores), lower_bound(scores, level)
    outcome = PROMOTE if bound > threshold else INCONCLUSIVE if average > threshold else KEEP
    said = {
        PROMOTE: f"clears {threshold:.4f}",
        INCONCLUSIVE: f"does not clear {threshold:.4f}, though the rate does: more prompts could tell",
        KEEP: f"does not clear {threshold:.4f}, nor does the rate",
    }[outcome]
    facts = f"{average:.4f} on {len(scores)} prompts, lower bound {bound:.4f} (alpha {level:.5f}, look {attempt})"
    numbers = {
        "opponent_win_rate": round(average, 6),
        "opponent_lower_bound": round(bound, 6),
        "threshold": round(threshold, 6),
        "compared_prompts": len(scores),
    }
    return Finding(outcome, f"win rate {opponent} {facts} {said}", numbers)


def _against_slide(evidence: Evidence, champion: Evidence, config: GateConfig) -> Finding:
    """Refuse a slow slide: the bound against the fixed reference stays near the champion's own.

    Where that was won before another judge, or against another reference, it is no measure: one half is, then.
    """
    scores = evidence.credits()
    ours, theirs = lower_bound(scores, config.alpha), lower_bound(champion.credits(), config.alpha)
    if why := evidence.differs_from(champion):
        outcome = PROMOTE if ours > EVEN else INCONCLUSIVE if mean(scores) > EVEN else KEEP
        said = "clears" if outcome == PROMOTE else "does not clear"
        reason = (
            f"lower bound against the reference {ours:.4f} {said} {EVEN} (the champion's cannot be compared: {why})"
        )
        return Finding(outcome, reason, {"floor": EVEN})
    floor = theirs - config.tolerance
    outcome = PROMOTE if ours >= floor else INCONCLUSIVE if mean(scores) >= theirs else KEEP
    said = "is not below" if outcome == PROMOTE else "is below"
    reason = (
        f"lower bound against the reference {ours:.4f} {said} the champion's {theirs:.4f} "
        f"less the tolerance {config.tolerance:.4f}"
    )
    return Finding(outcome, reason, {"champion_lower_bound": round(theirs, 6), "floor": round(floor, 6)})


def _coverage(evidence: Evidence) -> Finding:
    """Ask for enough verdicts; more of them could change the answer, so too few is inconclusive."""
    is_met = evidence.coverage >= MIN_COVERAGE
    said = "reaches" if is_met else "is below"
    reason = f"coverage {evidence.coverage:.4f} {said} {MIN_COVERAGE:.4f}; missing verdicts count as losses"
    return Finding(PROMOTE if is_met else INCONCLUSIVE, reason, {"coverage": round(evidence.coverage, 6)})


def _guards(evidence: Evidence) -> list[Finding]:
    """Refuse on every guard that failed, and where none was measured at all."""
    if not evidence.guards:
        return [Finding(KEEP, "the evidence holds no guard, so nothing vouches for the outputs")]
    failed = [guard for guard in evidence.guards if not guard.is_passed]
    numbers = {"guards": len(evidence.guards), "guards_failed": len(failed)}
    if not failed:
        return [Finding(PROMOTE, f"all {len(evidence.guards)} guards passed", numbers)]
    return [Finding(KEEP, f"guard `{g.name}` failed: value {g.value}, limit {g.limit}", numbers) for g in failed]
