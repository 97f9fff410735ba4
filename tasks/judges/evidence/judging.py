"""All games of a run, and the numbers drawn from them: win rates, intervals, consistency, slices."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from tasks.estimation.estimates import consistency, first_position_share, per_prompt
from tasks.estimation.slices import slice_rates
from tasks.judges.evidence.judged_answers import CHAMPION, Answers
from tasks.judges.evidence.verdict_files import Judged, VerdictWriter
from tasks.judges.games.games import Game, Verdict, columns, pair_up
from tasks.judges.games.runners import JudgeRunner
from tasks.judges.metric import load_metric
from tasks.telemetry.receipts import note

_DUEL = ("win_rate", "se", "low", "high", "lower_bound", "wins", "ties", "losses", "coverage")


def judge_answers(
    answers: Answers, judge: JudgeRunner, alpha: float, seed: int, writer: VerdictWriter | None = None
) -> Judged:
    """Play policy and control against the reference, and the policy against the champion where there is one.

    Args:
        answers: Of all sides.
        judge: Asks the judge.
        alpha: Intervals are at 1 − alpha.
        seed: Of sign flips and of the length-controlled rate's bootstrap.
        writer: Takes every verdict.
    """
    metric, settings = load_metric(), {"alpha": alpha, "seed": seed}
    table = _GameTable(answers, judge, writer)
    judge.prepare([pair for sides in played(answers) for pair in answers.pairs(*sides)])
    games, control_games = table.play("policy", "reference"), table.play("control", "reference")
    scores = per_prompt(**columns(games))
    result = metric.compute(**columns(games), **settings, length_differences=_length_differences(answers, games))
    control = metric.compute(**columns(control_games), **settings)

    shown = [game for game in games if game.is_judged]  # identical answers show no judge's bias
    metrics = {
        **result,
        **position(shown),
        "judge": judge.fingerprint,
        "alpha": alpha,
        "identical": len(games) - len(shown),
        "control": {key: control[key] for key in ("win_rate", "se", "low", "high")},
        "slices": _slices(answers, scores, alpha),
    }

    duel = None
    if CHAMPION in answers.sides:
        duels = columns(table.play("policy", CHAMPION))
        rates = metric.compute(**duels, **settings)
        metrics["champion"] = {key: rates[key] for key in _DUEL}
        duel = per_prompt(**duels)
    note(verdicts=table.verdicts, judge_usage=dataclasses.asdict(judge.usage))
    return Judged(scores, metrics, table.totals, duel)


def played(answers: Answers) -> list[tuple[str, str]]:
    """Return the pairs of sides that are judged."""
    with_champion = [("policy", CHAMPION)] if CHAMPION in answers.sides else []
    return [("policy", "reference"), ("control", "reference"), *with_champion]


class _GameTable:
    """Lets pairs of sides play; keeps the credits, and of the first pair's first samples the judge's scores."""

    def __init__(self, answers: Answers, judge: JudgeRunner, writer: VerdictWriter | None) -> None:
        self._answers, self._judge, self._writer = answers, judge, writer
        self.verdicts = 0
        self.totals: dict[str, tuple[float | None, float | None]] = {}

    def play(self, side: str, opponent: str) -> list[Game]:
        """Return the games of two sides, in the order of the answers."""
        verdicts = self._judge.verdicts(self._answers.pairs(side, opponent), f"judging {side} against {opponent}")
        if self._writer:
            verdicts = self._writer.through(verdicts, side, opponent)
        return list(pair_up(self._counted(verdicts, is_first=(side, opponent) == ("policy", "reference"))))

    def _counted(self, verdicts: Iterator[Verdict], is_first: bool) -> Iterator[Verdict]:
        for verdict in verdicts:
            self.verdicts += 1
            if is_first and verdict.sample == 0:
                sides = [verdict.detail.get(name, {}) for name in ("candidate", "opponent")]
                self.totals[verdict.prompt_id] = (sides[0].get("total"), sides[1].get("total"))
            yield verdict


def position(games: Sequence[Game]) -> dict[str, float | None]:
    """Return consistency and first-position share of games that were shown in both orders; None where none were."""
    both = columns([game for game in games if game.has_orders])
    credits = (both["shown_first"], both["shown_second"])
    return {"consistency": consistency(*credits), "first_position_share": first_position_share(*credits)}


def _length_differences(answers: Answers, games: Sequence[Game]) -> list[float]:
    policy, reference = answers.sides["policy"], answers.sides["reference"]
    keys = [(game.prompt_id, game.sample) for game in games]
    return [float(policy[key].n_tokens - reference[key].n_tokens) for key in keys]


def _slices(answers: Answers, scores: dict[str, float], alpha: float) -> dict[str, dict[str, Any]]:
    """Return the win rate within each slice that has a judged prompt; prompts without a slice are left out."""
    by_slice: dict[str, list[float]] = {}
    for prompt_id, score in scores.items():
        if (name := answers.rows[prompt_id].get("slice")) is not None:
            by_slice.setdefault(str(name), []).append(score)

    return {name: dataclasses.asdict(rate) for name, rate in slice_rates(by_slice, alpha).items()}
