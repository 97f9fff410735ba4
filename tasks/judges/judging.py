"""All games of a run, and the numbers drawn from them: win rates, intervals, consistency, slices."""

from __future__ import annotations

import dataclasses
from typing import Any

from tasks.estimation.estimates import consistency, first_position_share, per_prompt
from tasks.estimation.slices import slice_rates
from tasks.judges.games import columns, pair_up, play
from tasks.judges.judged_answers import CHAMPION, Answers
from tasks.judges.metric import load_metric
from tasks.judges.protocol import Judge
from tasks.judges.verdict_files import Judged
from tasks.telemetry.receipts import note

_DUEL = ("win_rate", "se", "low", "high", "lower_bound", "wins", "ties", "losses", "coverage")


def judge_answers(answers: Answers, judge: Judge, alpha: float, seed: int) -> Judged:
    """Play policy and control against the reference, and the policy against the champion where there is one.

    Args:
        answers: Of all sides.
        judge: Compares two answers.
        alpha: Intervals are at 1 − alpha.
        seed: Of sign flips and of the length-controlled rate's bootstrap.
    """
    metric = load_metric()
    games_of = [("policy", "reference"), ("control", "reference")]
    games_of += [("policy", CHAMPION)] if CHAMPION in answers.sides else []
    verdicts = {
        (side, opponent): play(judge, answers.pairs(side, opponent), f"judging {side} against {opponent}")
        for side, opponent in games_of
    }
    note(verdicts=sum(map(len, verdicts.values())))

    games, control_games = pair_up(verdicts["policy", "reference"]), pair_up(verdicts["control", "reference"])
    settings = {"alpha": alpha, "seed": seed}
    policy, reference = answers.sides["policy"], answers.sides["reference"]
    keys = [(game.prompt_id, game.sample) for game in games]
    differences = [float(policy[key].n_tokens - reference[key].n_tokens) for key in keys]
    result = metric.compute(**columns(games), **settings, length_differences=differences)
    control = metric.compute(**columns(control_games), **settings)
    scores = per_prompt(**columns(games))

    shown = columns([game for game in games if game.is_judged])  # identical answers show no judge's bias
    metrics = {
        **result,
        "consistency": consistency(shown["shown_first"], shown["shown_second"]),
        "first_position_share": first_position_share(shown["shown_first"], shown["shown_second"]),
        "judge": judge.fingerprint,
        "alpha": alpha,
        "identical": len(games) - len(shown["prompt_ids"]),
        "control": {key: control[key] for key in ("win_rate", "se", "low", "high")},
        "slices": _slices(answers, scores, alpha),
    }

    if ("policy", CHAMPION) not in verdicts:
        return Judged(verdicts, scores, metrics)
    duels = columns(pair_up(verdicts["policy", CHAMPION]))
    duel = metric.compute(**duels, **settings)
    metrics["champion"] = {key: duel[key] for key in _DUEL}
    return Judged(verdicts, scores, metrics, per_prompt(**duels))


def _slices(answers: Answers, scores: dict[str, float], alpha: float) -> dict[str, dict[str, Any]]:
    """Return the win rate within each slice that has a judged prompt; prompts without a slice are left out."""
    by_slice: dict[str, list[float]] = {}
    for prompt_id, score in scores.items():
        if (name := answers.prompts[prompt_id].get("slice")) is not None:
            by_slice.setdefault(str(name), []).append(score)
    return {name: dataclasses.asdict(rate) for name, rate in slice_rates(by_slice, alpha).items()}
