"""What asks a judge: each comparison goes to it as its kind wants, and comes back as verdicts on the candidate."""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from tasks.core.files import digest_of
from tasks.judges.games.games import BOTH, Comparison, Order, Verdict
from tasks.judges.games.pool import opinions
from tasks.judges.protocol.protocol import (
    MISSING,
    Item,
    Opinion,
    PairJudge,
    Response,
    Score,
    Scorer,
    Usage,
    opinion_of,
)
from tasks.telemetry.log import bar

_CHUNK = 1024  # comparisons whose answers a scorer gets at once


class JudgeRunner(Protocol):
    """Asks a judge about comparisons."""

    @property
    def fingerprint(self) -> str:
        """The judge's."""

    @property
    def has_orders(self) -> bool:
        """Whether each comparison is shown in both orders."""

    @property
    def usage(self) -> Usage:
        """What judging took so far."""

    def prepare(self, comparisons: Sequence[Comparison]) -> None:
        """Take notice of all comparisons of a stage before the first is judged: a paid judge estimates its costs."""

    def verdicts(self, comparisons: Sequence[Comparison], what: str = "judging") -> Iterator[Verdict]:
        """Yield the verdicts in the order of the comparisons, AB before BA."""


class PairRunner:
    """Shows each comparison to a pair judge in both orders.

    Args:
        judge: The judge.
        source: A digest of its code, where that is not ours; it becomes part of the fingerprint.
    """

    has_orders = True

    def __init__(self, judge: PairJudge, source: str = "") -> None:
        self.usage = Usage()
        self._judge, self._source = judge, source

    @property
    def fingerprint(self) -> str:
        """The judge's."""
        return _fingerprint(self._judge.fingerprint, self._source)

    def prepare(self, comparisons: Sequence[Comparison]) -> None:
        """Show the judge all items, where it wants to see them.

        Raises:
            PipelineError: The judge cannot judge them.
        """
        if method := getattr(self._judge, "prepare", None):
            method([_item(pair, order) for pair in comparisons if not pair.is_identical for order in BOTH])

    def verdicts(self, comparisons: Sequence[Comparison], what: str = "judging") -> Iterator[Verdict]:
        """Yield two verdicts a comparison.

        Raises:
            Preempted: The process was asked to stop.
            PipelineError: The judge cannot go on.
        """
        fingerprint = self.fingerprint
        shown = [(pair, order) for pair in comparisons if not pair.is_identical for order in BOTH]
        answers = opinions(self._judge, (_item(pair, order) for pair, order in shown))
        with contextlib.closing(answers), bar(what, total=len(shown), unit="verdict") as progress:
            for pair in comparisons:
                for order in BOTH:
                    if pair.is_identical:
                        yield pair.identical(order, fingerprint)
                        continue
                    opinion = next(answers)
                    self.usage += opinion.usage
                    progress.update()
                    yield _unswapped(pair, order, opinion, fingerprint)
            next(answers, None)  # raises where the last opinions came after a request to stop


def _fingerprint(judge: str, source: str) -> str:
    return digest_of([judge, source]) if source else judge


def _item(pair: Comparison, order: Order) -> Item:
    shown = (pair.candidate, pair.opponent) if order == "AB" else (pair.opponent, pair.candidate)
    return Item(f"{pair.prompt_id}/{pair.sample}", pair.prompt, *shown)


def _unswapped(pair: Comparison, order: Order, opinion: Opinion, judge: str) -> Verdict:
    """Return the opinion on the answers as shown, as a verdict on the candidate."""
    p_first = None if opinion.status in MISSING else opinion.p_first
    p_candidate = p_first if p_first is None or order == "AB" else 1.0 - p_first
    shown = ("candidate", "opponent") if order == "AB" else ("opponent", "candidate")
    names = dict(zip(("first", "second"), shown, strict=True))
    detail = {names.get(key, key): value for key, value in opinion.detail.items()}
    return Verdict(pair.prompt_id, pair.sample, order, opinion.status, p_candidate, judge, detail)


class ScoreRunner:
    """Lets a scorer rate each answer once; the two scores of a comparison decide it.

    Args:
        scorer: The scorer.
        source: As :class:`PairRunner`.
    """

    has_orders = False

    def __init__(self, scorer: Scorer, source: str = "") -> None:
        self.usage = Usage()
        self._scorer, self._source = scorer, source
        self._scores: dict[str, Score] = {}

    @property
    def fingerprint(self) -> str:
        """The scorer's."""
        return _fingerprint(self._scorer.fingerprint, self._source)

    def prepare(self, comparisons: Sequence[Comparison]) -> None:
        """Do nothing: a scorer costs nothing."""

    def verdicts(self, comparisons: Sequence[Comparison], what: str = "judging") -> Iterator[Verdict]:
        """Yield one verdict a comparison."""
        fingerprint = self.fingerprint
        starts = range(0, len(comparisons), _CHUNK)
        with bar(what, total=len(starts), unit="batch") as progress:
            for start in starts:
                chunk = comparisons[start : start + _CHUNK]
                self._score([pair for pair in chunk if not pair.is_identical])
                for pair in chunk:
                    is_tie = pair.is_identical
                    yield pair.identical("none", fingerprint) if is_tie else self._verdict(pair, fingerprint)
                progress.update()

    def _score(self, pairs: Sequence[Comparison]) -> None:
        """Score the answers that were not scored before."""
        sides = (Response(pair.prompt, answer) for pair in pairs for answer in (pair.candidate, pair.opponent))
        new = {response.key: response for response in sides if response.key not in self._scores}
        scores = self._scorer.score(list(new.values())) if new else []
        self._scores |= zip(new, scores, strict=True)
        self.usage = sum((score.usage for score in scores), self.usage)

    def _verdict(self, pair: Comparison, fingerprint: str) -> Verdict:
        candidate, opponent = (
            self._scores[Response(pair.prompt, answer).key] for answer in (pair.candidate, pair.opponent)
        )
        opinion = self._opinion(candidate, opponent)
        detail = {"candidate": _shown(candidate), "opponent": _shown(opponent)}
        return Verdict(pair.prompt_id, pair.sample, "none", opinion.status, opinion.p_first, fingerprint, detail)

    def _opinion(self, candidate: Score, opponent: Score) -> Opinion:
        if candidate.value is None or opponent.value is None:
            missing = candidate if candidate.value is None else opponent
            return Opinion(missing.status if missing.status in MISSING else "invalid", None)
        difference = candidate.value - opponent.value
        if abs(difference) <= self._scorer.dead_band:
            return opinion_of(0.5)
        return opinion_of(_sigmoid(difference) if self._scorer.is_soft else float(difference > 0))


def _shown(score: Score) -> dict[str, Any]:
    return {"total": None if score.value is None else round(score.value, 6), **score.detail}


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


class PanelRunner:
    """Several judges, each asked about every comparison; the verdict is the mean of those that give one.

    Args:
        members: The judges by their names.
        quorum: Fewest members that must give a verdict; with fewer it is missing.
    """

    def __init__(self, members: Mapping[str, JudgeRunner], quorum: int) -> None:
        self._members, self._quorum = members, quorum
        self.has_orders = any(member.has_orders for member in members.values())
        named = {name: member.fingerprint for name, member in members.items()}
        self.fingerprint = digest_of(["panel", 1, named, quorum])

    @property
    def usage(self) -> Usage:
        """The sum of the members'."""
        return sum((member.usage for member in self._members.values()), Usage())

    def prepare(self, comparisons: Sequence[Comparison]) -> None:
        """Prepare every member."""
        for member in self._members.values():
            member.prepare(comparisons)

    def verdicts(self, comparisons: Sequence[Comparison], what: str = "judging") -> Iterator[Verdict]:
        """Yield a verdict a comparison, or two where a member is shown both orders."""
        by_game: dict[tuple[str, int, Order], dict[str, float | None]] = defaultdict(dict)
        for name, member in self._members.items():
            for verdict in member.verdicts(comparisons, f"{what}, {name}"):
                for order in self._orders() if verdict.order == "none" else (verdict.order,):
                    by_game[verdict.prompt_id, verdict.sample, order][name] = verdict.p_candidate
        for pair in comparisons:
            for order in self._orders():
                if pair.is_identical:
                    yield pair.identical(order, self.fingerprint)
                else:
                    yield self._verdict(pair, order, by_game[pair.prompt_id, pair.sample, order])

    def _orders(self) -> tuple[Order, ...]:
        return BOTH if self.has_orders else ("none",)

    def _verdict(self, pair: Comparison, order: Order, opinions: Mapping[str, float | None]) -> Verdict:
        given = [p for p in opinions.values() if p is not None]
        mean = round(math.fsum(given) / len(given), 12) if len(given) >= self._quorum else None
        opinion = Opinion("invalid", None) if mean is None else opinion_of(mean)
        detail = {"members": dict(opinions)}
        return Verdict(pair.prompt_id, pair.sample, order, opinion.status, opinion.p_first, self.fingerprint, detail)
