"""The facts on the page and the card, as values; this module reads no file and knows no HTML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tasks.core.base_model import BaseModel
from tasks.page.answer_facts import AnswerFacts
from tasks.page.measured import Curve, Histogram, Rate, Spread


@dataclasses.dataclass(frozen=True)
class Reason:
    """Rows that were left out for one reason, with the first one as an example."""

    name: str
    rows: int
    source: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Split:
    """One side of the split: pairs and distinct prompts."""

    name: str
    pairs: int
    prompts: int


@dataclasses.dataclass(frozen=True)
class SourceFacts:
    """One source of rows.

    Attributes:
        name: What it is called.
        rows: How many were read.
        form: How they were read.
        unread: Columns that nothing read.
        ignored: Columns that were left out on purpose.
    """

    name: str
    rows: int
    form: str
    unread: tuple[str, ...]
    ignored: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class NumberFacts:
    """A number that pairs have, the weight or the margin: its spread, and pairs by its value.

    Attributes:
        pairs: How many have another value than the usual one (weight 1, margin 0).
    """

    name: str
    pairs: int
    min: float
    mean: float
    max: float
    bins: Histogram


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """The data card: sources, rows left out and kept, the split, slices, and lengths.

    Attributes:
        read: Rows that ingest read.
        outcomes: Pairs and rejections that these rows gave; a row may give several, and several rows one.
        left_out: How many of them were left out, by kind.
        splits: Both sides of the split.
        reasons: Those that rejects.jsonl lists, by reason.
        dropped: Pairs that could not be encoded, by reason.
        sources: The sources, by name.
        slices: Pairs by slice and side.
        all_slices: How many slices there are; those beyond a limit are not listed.
        chosen_longer_share: Share of the pairs whose chosen answer has more characters.
        spreads: Lengths of prompt, chosen and rejected in tokens.
        prompts: Lengths of the prompts in characters.
        answers: Lengths of chosen against rejected in characters.
        numbers: Weight and margin, where some pair has another value than the usual one.
        personal_data: How many findings of each kind there were, and in how many `pairs`; None if nobody looked.
        languages: Prompts by language, of a sample; None if nobody counted.
    """

    read: int
    outcomes: int
    left_out: Mapping[str, int]
    splits: tuple[Split, ...]
    reasons: tuple[Reason, ...]
    dropped: tuple[Reason, ...]
    sources: tuple[SourceFacts, ...]
    slices: Mapping[str, tuple[int, int]]
    all_slices: int
    chosen_longer_share: float
    spreads: tuple[Spread, ...]
    prompts: Histogram
    answers: Histogram
    numbers: tuple[NumberFacts, ...]
    personal_data: Mapping[str, int] | None
    languages: Mapping[str, int] | None


@dataclasses.dataclass(frozen=True)
class Measures:
    """The policy on the held-out pairs, at one time: means over pairs.

    Attributes:
        loss: The objective's value; ln 2 = 0.693 where the policy is its reference (plain DPO).
        accuracy: Share of pairs whose chosen answer has the higher implicit reward.
        margin: Reward of chosen minus reward of rejected.
        logp_chosen: Log-probability of the whole chosen answer, in nats.
        logp_rejected: Log-probability of the whole rejected answer, in nats.
    """

    loss: float
    accuracy: float
    margin: float
    logp_chosen: float
    logp_rejected: float


@dataclasses.dataclass(frozen=True)
class TrainingFacts:
    """How training went: sizes, held-out measures before and after, and curves by column name.

    Attributes:
        log_ratios: Mean of log π − log π_ref after training of the whole `chosen` and `rejected` held-out answers, in
            nats; empty where β is not known.
    """

    train_pairs: int
    test_pairs: int
    steps: int
    epochs: float
    tokens: int
    before: Measures
    after: Measures
    log_ratios: dict[str, float]
    train_curves: dict[str, Curve]
    eval_curves: dict[str, Curve]


@dataclasses.dataclass(frozen=True)
class Guard:
    """A check that must pass for the win rate to be evidence; `key` is its name in the metrics."""

    key: str
    name: str
    value: str
    limit: str
    is_passed: bool


@dataclasses.dataclass(frozen=True)
class SliceRate:
    """The win rate within one slice of the held-out prompts."""

    name: str
    prompts: int
    rate: Rate


@dataclasses.dataclass(frozen=True)
class AgreementFacts:
    """A judge beside the labels of pairs of which the better answer is known.

    Attributes:
        pairs: Labelled pairs that it judged.
        decided: Those on which its verdict prefers one answer.
        ties: Those on which it prefers neither.
        invalid: Those without a verdict.
        agreement: Agreeing over decided pairs; None where none was decided.
        bound: Its one-sided lower bound.
        kappa: Cohen's κ, in [−1, 1].
        first_position_share: Mean credit of the answer shown first; None where scores decide, which know no position.
    """

    pairs: int
    decided: int
    ties: int
    invalid: int
    agreement: Rate | None
    bound: float
    kappa: Rate | None
    first_position_share: Rate | None


@dataclasses.dataclass(frozen=True)
class PapersFacts:
    """The judge's papers: what is known of it before it judged answers.

    Attributes:
        judge: Its fingerprint.
        kind: Its kind.
        model: The models or classes that its params name; empty for none.
        labels: It beside the labels.
        length_labels: The longer answer beside the same labels.
        canaries: The share of its games that each canary lost.
        min_agreement: What `labels.bound` must lie above.
        faults: Why it does not qualify, a sentence each.
    """

    judge: str
    kind: str
    model: str
    labels: AgreementFacts
    length_labels: AgreementFacts
    canaries: Mapping[str, float]
    min_agreement: float
    faults: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class EvidenceFacts:
    """The win rate, its uncertainty, and what speaks against it.

    Attributes:
        confidence: Level of every interval and bound, 1 − `winrate.alpha`.
        papers: Those of the judge.
        consistency: None where every pair of answers was identical, and so no judge was asked.
        first_position_share: None as well then.
        length_refusal: Why there is no length-controlled rate; empty if there is one.
        champion: Win rate head to head with the champion of the registry, if it answered.
        champion_digest: The digest of its version.
    """

    prompts: int
    confidence: float
    papers: PapersFacts
    rate: Rate
    lower_bound: float
    interval_method: str
    wins: int
    ties: int
    losses: int
    coverage: float
    p_value: float
    consistency: float | None
    first_position_share: float | None
    smallest_detectable_win_rate: float
    length_controlled: Rate | None
    length_refusal: str
    control: Rate
    length_ratio: float
    guards: tuple[Guard, ...]
    slices: tuple[SliceRate, ...]
    champion: Rate | None = None
    champion_digest: str = ""

    @property
    def failed_guards(self) -> tuple[Guard, ...]:
        """The guards that did not pass."""
        return tuple(guard for guard in self.guards if not guard.is_passed)


@dataclasses.dataclass(frozen=True)
class Lineage:
    """Digests of the input folders, the params that made them, and the data sets from the hub."""

    digests: tuple[tuple[str, str], ...]
    params: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    datasets: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Facts:
    """All facts on the page and the card."""

    base: BaseModel
    data: DataFacts
    training: TrainingFacts
    evidence: EvidenceFacts
    answers: AnswerFacts
    lineage: Lineage
