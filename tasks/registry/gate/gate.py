"""The gate: whether evidence is good enough to promote, as a pure function.

A candidate passes if

- the lower one-sided bound of its win rate (against the champion; on the first run against the reference) clears the
  threshold,
- its lower bound against the fixed reference is not below the champion's by more than the tolerance,
- every guard passes, and enough prompts have a verdict.

A missing verdict counts as a loss. The k-th look at much the same prompts is tested at alpha * 6 / (pi * k)^2; these
levels sum to alpha over all looks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean
from typing import Annotated, Any, ClassVar

from tasks.core.section import Section, at_least, between
from tasks.registry.log.evidence import Evidence

PASSED, FAILED, INCONCLUSIVE = "promote", "keep", "inconclusive"  # outcomes, of the gate and of each condition
EVEN = 0.5  # the win rate of two equal models
MIN_COVERAGE = 0.98  # smallest share of prompts with a verdict; a missing verdict counts as a loss
_NORMAL_FROM = 100  # prompts from which the normal approximation alone is used


@dataclasses.dataclass(frozen=True)
class GateConfig(Section, path="register.gate"):
    """What a candidate must show (params section `register.gate`).

    Attributes:
        alpha: The probability, over all looks at much the same prompts, of promoting a model that is not better.
        margin: How far above one half the lower bound must be, in win rate.
        tolerance: How far the lower bound against the reference may be below the champion's, in win rate.
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
    findings = [_against_opponent(evidence, champion, attempts, level, config)]
    findings += [] if champion is None else [_against_slide(evidence, champion, config)]
    findings += [_coverage(evidence), *_guards(evidence)]

    # the strictest outcome of all conditions decides
    outcomes = {finding.outcome for finding in findings}
    outcome = FAILED if FAILED in outcomes else INCONCLUSIVE if INCONCLUSIVE in outcomes else PASSED

    scores = evidence.credits()
    numbers: dict[str, float | int] = {
        "win_rate": round(fmean(scores), 6),
        "lower_bound": round(lower_bound(scores, config.alpha), 6),
        "prompts": len(scores),
        "alpha_spent": round(level, 8),
    }
    for finding in findings:
        numbers |= finding.numbers

    digest = None if champion is None else champion.version
    return Decision(outcome, tuple(finding.reason for finding in findings), numbers, digest, attempts, config)


def spent_alpha(alpha: float, attempt: int) -> float:
    """Return the level of the ``attempt``-th look (from 1); the levels of all looks sum to ``alpha``."""
    return alpha * 6 / (math.pi * attempt) ** 2


def lower_bound(scores: Sequence[float], alpha: float) -> float:
    """Return the lower one-sided bound at ``alpha`` of the mean of scores in [0, 1].

    Scores that are all 0 or 1, or all equal, get Wilson's bound, others mean - z * sd / sqrt(n). Below 100 prompts it
    is the lower of the two: the normal approximation is too narrow there, and Wilson's, which assumes the largest
    possible spread, is conservative. Ties narrow the spread without any information: if fewer than 100 prompts are
    decided, the bound is at most what these alone would give.
    """
    count, average = len(scores), fmean(scores)
    z = -NormalDist().inv_cdf(alpha)
    wilson = _wilson_lower(average, count, z)
    if count < 2 or set(scores) <= {0.0, 1.0} or len(set(scores)) == 1:
        return wilson
    variance = math.fsum((score - average) ** 2 for score in scores) / (count - 1)
    bounds = [average - z * math.sqrt(variance / count), _decided_lower(scores, alpha)]
    return min(bounds if count >= _NORMAL_FROM else [*bounds, wilson])


def _decided_lower(scores: Sequence[float], alpha: float) -> float:
    """Return Clopper and Pearson's lower bound (1934) of the decided scores, with the ties added; inf if unused."""
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
    """Compare with the champion, or with the reference if there is none."""
    if champion is None:
        return _judge("against the reference", evidence.credits(), EVEN + config.margin, level, attempt)

    opponent, method, threshold = f"against the champion {champion.version[:12]}", "", EVEN + config.margin
    scores = evidence.credits_against(champion.version)
    if scores is None:
        if why := evidence.differs_from(champion):
            reason = f"not comparable with the champion {champion.version[:12]}: {why}; judge them head to head"
            return Finding(INCONCLUSIVE, reason)
        # a difference of credits is in [-1, 1]: half of it plus one half is a win rate
        scores = [EVEN + (score - champions) / 2 for score, champions in evidence.shared_with(champion)]
        method, threshold = " (half the paired difference of credits, plus 0.5)", EVEN + config.margin / 2

    if len(scores) < config.min_shared_prompts:
        reason = f"{opponent}: {len(scores)} shared prompts, {config.min_shared_prompts} are needed"
        return Finding(INCONCLUSIVE, reason, {"compared_prompts": len(scores)})
    return _judge(opponent + method, scores, threshold, level, attempt)


def _judge(opponent: str, scores: Sequence[float], threshold: float, level: float, attempt: int) -> Finding:
    """Compare the lower bound of ``scores`` at ``level`` with ``threshold``."""
    average, bound = fmean(scores), lower_bound(scores, level)
    outcome = PASSED if bound > threshold else INCONCLUSIVE if average > threshold else FAILED
    said = {
        PASSED: f"clears {threshold:.4f}",
        INCONCLUSIVE: f"does not clear {threshold:.4f}, though the rate does: more prompts could tell",
        FAILED: f"does not clear {threshold:.4f}, nor does the rate",
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
    """Refuse a slow decline: the lower bound against the fixed reference must stay near the champion's.

    If the champion's had another judge or another reference, the two cannot be compared, and one half is the floor.
    """
    scores = evidence.credits()
    bound, champions_bound = lower_bound(scores, config.alpha), lower_bound(champion.credits(), config.alpha)
    if why := evidence.differs_from(champion):
        outcome = PASSED if bound > EVEN else INCONCLUSIVE if fmean(scores) > EVEN else FAILED
        said = "clears" if outcome == PASSED else "does not clear"
        reason = (
            f"lower bound against the reference {bound:.4f} {said} {EVEN} (the champion's cannot be compared: {why})"
        )
        return Finding(outcome, reason, {"floor": EVEN})

    floor = champions_bound - config.tolerance
    outcome = PASSED if bound >= floor else INCONCLUSIVE if fmean(scores) >= champions_bound else FAILED
    said = "is not below" if outcome == PASSED else "is below"
    reason = (
        f"lower bound against the reference {bound:.4f} {said} the champion's {champions_bound:.4f} "
        f"less the tolerance {config.tolerance:.4f}"
    )
    return Finding(outcome, reason, {"champion_lower_bound": round(champions_bound, 6), "floor": round(floor, 6)})


def _coverage(evidence: Evidence) -> Finding:
    """Ask for enough verdicts; more of them could change the outcome, so too few are inconclusive."""
    is_met = evidence.coverage >= MIN_COVERAGE
    said = "reaches" if is_met else "is below"
    reason = f"coverage {evidence.coverage:.4f} {said} {MIN_COVERAGE:.4f}; missing verdicts count as losses"
    return Finding(PASSED if is_met else INCONCLUSIVE, reason, {"coverage": round(evidence.coverage, 6)})


def _guards(evidence: Evidence) -> list[Finding]:
    """Refuse for each guard that failed, and if no guard was measured at all."""
    if not evidence.guards:
        return [Finding(FAILED, "the evidence holds no guard, so nothing was checked about the outputs")]
    failed = [guard for guard in evidence.guards if not guard.is_passed]
    numbers = {"guards": len(evidence.guards), "guards_failed": len(failed)}
    if not failed:
        return [Finding(PASSED, f"all {len(evidence.guards)} guards passed", numbers)]
    return [Finding(FAILED, f"guard `{g.name}` failed: value {g.value}, limit {g.limit}", numbers) for g in failed]
