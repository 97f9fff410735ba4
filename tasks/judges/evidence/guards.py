"""Guards: conditions that must hold for a high win rate to be evidence of quality.

A model that always gives the same answer can win with a judge; a model whose adapter was never
applied ties. Each guard detects one such failure: it compares a measured value with a limit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from tasks.core.section import Section, at_least, band, between
from tasks.judges.evidence.leakage import Leakage
from tasks.judges.protocol.protocol import Answer
from tasks.judges.qualification.qualification import FEWEST_PAIRS, LEAST_CANARIES_LOST, MOST_POSITION_BIAS
from tasks.judges.rules.texts import distinct_ngram_share

Rule = Literal["above", "at most", "at least", "between"]
MAX_EMPTY_SHARE = 0.02  # empty answers of the policy
MAX_REPEATED_SHARE = 0.05  # answers of which over half the word triples are repeats
MAX_IDENTICAL_SHARE = 0.9  # answers that equal the reference's word for word
MAX_SEEN_PROMPT_SHARE = 0.0  # held-out prompts that are in the training data, word for word
MAX_CONTROL_Z = 4.0  # standard errors between one half and the win rate of the reference against itself
Share = Annotated[float, between(0, 1)]
_REPETITION_NGRAM = 3
_REPEATED_BELOW = 0.5  # distinct n-grams over all n-grams; a text that says everything twice has about one half


@dataclasses.dataclass(frozen=True)
class GuardLimits(Section, path="winrate.guards"):
    """The limits of the guards that depend on the task.

    Attributes:
        max_truncated_share: Largest share of answers that the token limit cut.
        min_distinct_ratio: Smallest share of distinct answers.
        length_ratio: Least and greatest ratio of the mean lengths in tokens, policy over reference.
        max_overlapping_prompt_share: Largest share of held-out prompts that have `overlap_words` words in a row in
            common with a training prompt.
        max_benchmark_drop: Most by which a metric of `benchmarks` may become worse.
        overlap_words: Words in such a run.
    """

    REMOVED: ClassVar[Mapping[str, str]] = {
        "max_empty_share": f"delete it: the limit is {MAX_EMPTY_SHARE}",
        "max_repeated_share": f"delete it: the limit is {MAX_REPEATED_SHARE}",
        "max_identical_share": f"delete it: the limit is {MAX_IDENTICAL_SHARE}",
        "max_seen_prompt_share": "delete it: no held-out prompt may stand in the training data",
        "max_control_z": f"delete it: the limit is {MAX_CONTROL_Z:g} standard errors",
        "min_length_ratio": "write `length_ratio: [LEAST, MOST]`",
        "max_length_ratio": "write `length_ratio: [LEAST, MOST]`",
    }

    max_truncated_share: Share
    min_distinct_ratio: Share
    length_ratio: Annotated[tuple[float, ...], band(0, "for example [0.4, 2.0]")]
    max_overlapping_prompt_share: Share
    max_benchmark_drop: Share
    overlap_words: Annotated[int, at_least(1)]


@dataclasses.dataclass(frozen=True)
class Guard:
    """A measured value, its limit, and the rule that compares them."""

    value: float
    rule: Rule
    limit: float | tuple[float, float]

    @property
    def is_passed(self) -> bool:
        """Whether the value is within the limit."""
        if isinstance(self.limit, tuple):
            return self.limit[0] <= self.value <= self.limit[1]
        if self.rule == "above":
            return self.value > self.limit
        return self.value <= self.limit if self.rule == "at most" else self.value >= self.limit

    def as_json(self) -> dict[str, Any]:
        """Return value, limit, rule and whether it passed, as written to `metrics.json`."""
        limit = list(self.limit) if isinstance(self.limit, tuple) else self.limit
        return {"value": round(self.value, 6), "limit": limit, "rule": self.rule, "passed": self.is_passed}


@dataclasses.dataclass(frozen=True)
class Measured:
    """The measurements that the guards check.

    Attributes:
        policy: All answers of the policy.
        reference: The reference's answers to the same prompts and samples, in the same order.
        max_abs_delta_logit: How far the adapter moves any logit.
        leakage: How many held-out prompts are in the training data.
        control_rate: Win rate of the reference against itself.
        control_se: Its standard error; None for a single prompt.
        papers: What `qualify` measured of the judge.
        benchmark_drop: How far the metric of `benchmarks` that fell most became worse; None where none was scored.
        is_control_judge: Whether the judge is a control, which ignores quality.
    """

    policy: Sequence[Answer]
    reference: Sequence[Answer]
    max_abs_delta_logit: float
    leakage: Leakage
    control_rate: float
    control_se: float | None
    papers: Mapping[str, Any]
    benchmark_drop: float | None = None
    is_control_judge: bool = False


def check_guards(measured: Measured, limits: GuardLimits) -> dict[str, Guard]:
    """Return every guard by its name, passed or not."""
    answers, count = measured.policy, len(measured.policy)
    identical = sum(policy.text == base.text for policy, base in zip(answers, measured.reference, strict=True))
    leakage, (least, most) = measured.leakage, limits.length_ratio

    return {
        "adapter_max_abs_delta_logit": Guard(measured.max_abs_delta_logit, "above", 0.0),
        "identical_share": Guard(identical / count, "at most", MAX_IDENTICAL_SHARE),
        "empty_share": Guard(sum(not answer.text.strip() for answer in answers) / count, "at most", MAX_EMPTY_SHARE),
        "truncated_share": Guard(
            sum(answer.finish == "length" for answer in answers) / count, "at most", limits.max_truncated_share
        ),
        "repeated_share": Guard(sum(map(is_repetitive, answers)) / count, "at most", MAX_REPEATED_SHARE),
        "distinct_ratio": Guard(
            len({answer.text for answer in answers}) / count, "at least", limits.min_distinct_ratio
        ),
        "length_ratio": Guard(length_ratio(answers, measured.reference), "between", (least, most)),
        "seen_prompt_share": Guard(leakage.exact, "at most", MAX_SEEN_PROMPT_SHARE),
        "overlapping_prompt_share": Guard(leakage.overlapping, "at most", limits.max_overlapping_prompt_share),
        "control_z": Guard(_control_z(measured), "at most", MAX_CONTROL_Z),
        "control_judge": Guard(float(measured.is_control_judge), "at most", 0.0),
        **_judge_guards(measured.papers),
        **_benchmark_guard(measured.benchmark_drop, limits),
    }


def _benchmark_guard(drop: float | None, limits: GuardLimits) -> dict[str, Guard]:
    return {} if drop is None else {"benchmark_drop": Guard(drop, "at most", limits.max_benchmark_drop)}


def _judge_guards(papers: Mapping[str, Any]) -> dict[str, Guard]:
    """Return the guards on the judge itself: agreement with labels, canaries, position."""
    return {
        "judge_pairs": Guard(papers["agreement"]["pairs"], "at least", FEWEST_PAIRS),
        "judge_agreement": Guard(papers["agreement"]["bound"], "above", papers["min_agreement"]),
        "judge_canaries": Guard(min(papers["canaries"].values(), default=0.0), "at least", LEAST_CANARIES_LOST),
        "judge_position_bias": Guard(papers["position_bias"], "at most", MOST_POSITION_BIAS),
    }


def is_repetitive(answer: Answer) -> bool:
    """Tell whether over half of the answer's word triples are repeats of earlier ones."""
    return distinct_ngram_share(answer.text, _REPETITION_NGRAM) < _REPEATED_BELOW


def length_ratio(policy: Sequence[Answer], reference: Sequence[Answer]) -> float:
    """Return the ratio of the total lengths in tokens; a side whose answers are all empty counts as one token."""
    return max(1, sum(answer.n_tokens for answer in policy)) / max(1, sum(answer.n_tokens for answer in reference))


def _control_z(measured: Measured) -> float:
    """Return |control − ½| in standard errors, at most 99; where the standard error is 0 or None: 0 at ½, else 99."""
    miss = abs(measured.control_rate - 0.5)
    if miss == 0:
        return 0.0
    return min(99.0, miss / measured.control_se) if measured.control_se else 99.0
