"""The answers and the verdicts on them, as the page shows them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

from tasks.page.measured import Histogram, Spread


@dataclasses.dataclass(frozen=True)
class Side:
    """One side's answers: lengths, and the shares of empty, cut and distinct ones."""

    name: str
    tokens_mean: float
    empty: float
    truncated: float
    distinct_ratio: float
    spread: Spread


@dataclasses.dataclass(frozen=True)
class Kl:
    """The KL divergence from the adapter to its base on the adapter's answers, in nats.

    Attributes:
        per_answer: Of a whole answer.
        per_answer_se: Its standard error over prompts; None with one prompt.
        per_token: ``per_answer`` over the mean number of tokens.
    """

    per_answer: float
    per_answer_se: float | None
    per_token: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """One side's first answer to a prompt.

    Attributes:
        side: `reference`, `policy` or `champion`.
        text: The answer.
        is_cut: Whether the length limit cut it.
    """

    side: str
    text: str
    is_cut: bool


@dataclasses.dataclass(frozen=True)
class VerdictFacts:
    """What the judge said of the first answers of the adapter and an opponent, shown in one order.

    Attributes:
        opponent: `reference` or `champion`.
        order: `AB` shows the adapter's answer first, `BA` second; `none` where scores decide.
        status: As the judge gave it; `skipped_identical` where it was not asked.
        credit: Probability that the adapter's answer is better; None where the verdict is missing.
        scores: What it measured, by name, of the adapter's and of the opponent's answer; None for what it lacks.
        members: Of a panel, the members' credits by their names.
        notes: What else it said, by name, such as its `reason`.
    """

    opponent: str
    order: str
    status: str
    credit: float | None
    scores: Mapping[str, tuple[float | None, float | None]]
    members: Mapping[str, float | None]
    notes: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class JudgedPrompt:
    """One held-out prompt: the answers of each side, and what the judge said.

    Attributes:
        whole_prompt: All of it, where that is more than the question.
        score: The adapter's credit against its base over all samples and orders; None where a verdict is missing.
        champion_score: The same against the champion.
    """

    prompt_id: str
    slice: str | None
    question: str
    whole_prompt: str | None
    answers: tuple[Answer, ...]
    verdicts: tuple[VerdictFacts, ...]
    score: float | None
    champion_score: float | None = None

    @property
    def orders_disagree(self) -> bool:
        """Whether the judge preferred another answer when the base's and the adapter's were shown the other way."""
        credits = [said.credit for said in self.verdicts if said.opponent == "reference"]
        return len({(credit > 0.5) - (credit < 0.5) for credit in credits if credit is not None}) > 1

    def credit_by(self, member: str) -> float | None:
        """Return what a member of the panel gave the adapter's first answer against the base's, over both orders."""
        credits = [said.members.get(member) for said in self.verdicts if said.opponent == "reference"]
        known = [credit for credit in credits if credit is not None]
        return sum(known) / len(known) if known and len(known) == len(credits) else None


@dataclasses.dataclass(frozen=True)
class AnswerFacts:
    """The answers: each side's statistics, their lengths, and the judged prompts with their answers.

    Attributes:
        samples: Answers of each side to each prompt; the first of them is shown.
        judged: How many prompts were judged.
        kl: How far the adapter has moved from its base; None where a server answered.
        prompts: The judged prompts, or so many of them as a page can hold, with the smallest ids.
    """

    samples: int
    sides: tuple[Side, ...]
    lengths: Histogram
    judged: int
    kl: Kl | None
    prompts: tuple[JudgedPrompt, ...]

    @property
    def slices(self) -> dict[str, int]:
        """How many of the prompts shown are in each slice, the largest first."""
        counts = Counter(prompt.slice for prompt in self.prompts if prompt.slice is not None)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def members(self) -> tuple[str, ...]:
        """The members of the panel that judged; empty where one judge did."""
        names = (name for prompt in self.prompts for verdict in prompt.verdicts for name in verdict.members)
        return tuple(dict.fromkeys(names))
