"""Judge the policy's answers against the reference's and the champion's, in both orders, and say how sure that is.

reads:  data/responses/, data/tokens/prompts.jsonl, data/pairs/ (for guards)
writes: results/winrate/ — metrics.json, verdicts.jsonl, scores.jsonl, scores.csv, lengths.csv; with a
        champion, champion_scores.jsonl
params: `winrate` in params.yaml
run as: python -m tasks.winrate
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tasks.core import paths
from tasks.core.files import atomic_folder, manifest_digest, pretty_json, read_json, read_manifest, write_text
from tasks.core.section import Section, between
from tasks.judges.choice import CONTROLS, JudgeKind, build_judge
from tasks.judges.estimates import consistency, first_position_share, per_prompt, smallest_detectable_win_rate, win_rate
from tasks.judges.games import pair_up, play
from tasks.judges.guards import GuardLimits, Measured, check_guards, length_ratio
from tasks.judges.judged_answers import CHAMPION, Answers, read_answers
from tasks.judges.leakage import measure_leakage
from tasks.judges.metric import load_metric
from tasks.judges.rules import RulesConfig
from tasks.judges.verdict_files import Judged, columns, rounded, write_evidence
from tasks.launch.stage import door
from tasks.telemetry import log
from tasks.telemetry.receipts import note

ALPHA = 0.05  # intervals are at 1 − ALPHA, the lower bound one-sided at 1 − ALPHA
POWER = 0.8  # chance with which the smallest detectable win rate, told before judging, would be seen
SEED = 0  # of the bootstrap, the sign flips and the random judge
_DUEL = ("win_rate", "se", "low", "high", "lower_bound", "wins", "ties", "losses", "coverage")
_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class WinrateConfig(Section, path="winrate"):
    """How answers are judged and what the result must keep to.

    Attributes:
        judge: `rules`; or `length` or `random`, controls that know nothing of quality: a guard refuses what they say.
        tie_margin: Rule scores that differ by so much or less are a tie.
        rules: The rules of the rule judge.
        guards: The limits of the guards.
    """

    REMOVED: ClassVar[Mapping[str, str]] = {
        "alpha": f"delete it: intervals are at 1 - {ALPHA}; `register.gate.alpha` is the gate's",
        "power": f"delete it: the smallest detectable win rate is at a power of {POWER}",
        "seed": f"delete it: the bootstrap's seed is {SEED}",
    }

    judge: JudgeKind
    tie_margin: Annotated[float, between(0, 1, "[)")]
    rules: RulesConfig
    guards: GuardLimits


def run(responses: Path, tokens: Path, pairs: Path, out: Path, config: WinrateConfig) -> dict[str, Any]:
    """Judge all answers, write the evidence under ``out`` and return its metrics.

    Raises:
        ArtifactError: An input is missing or damaged, or answers and prompts do not belong together.
        DataError: The judge gave no usable verdict at all.
    """
    inputs = {
        "responses": manifest_digest(responses, "respond"),
        "tokens": manifest_digest(tokens, "encode"),
        "pairs": manifest_digest(pairs, "ingest"),
    }
    answers = read_answers(responses, tokens)
    smallest = _tell_power(len(answers.prompts))
    judged = judge_answers(answers, config)
    measured = Measured(
        policy=list(answers.sides["policy"].values()),
        reference=[answers.sides["reference"][key] for key in answers.sides["policy"]],
        max_abs_delta_logit=read_json(responses / "metrics.json")["adapter_max_abs_delta_logit"],
        leakage=measure_leakage(pairs, answers.prompts, config.guards.overlap_words),
        control_rate=judged.metrics["control"]["win_rate"],
        control_se=judged.metrics["control"]["se"],
        is_control_judge=config.judge in CONTROLS,
    )
    guards = check_guards(measured, config.guards)
    if judged.duel is not None:
        judged.metrics["champion"]["digest"] = read_manifest(responses, "respond")["inputs"]["champion"]
    metrics = {
        **judged.metrics,
        "smallest_detectable_win_rate": smallest,
        "lengths": _lengths(measured),
        "guards": {name: guard.as_json() for name, guard in guards.items()},
    }
    with atomic_folder(out, {"stage": "winrate", "inputs": inputs}) as draft:
        write_text(draft / "metrics.json", pretty_json(rounded(metrics)))
        write_evidence(draft, answers, judged)
    _tell(metrics, [name for name, guard in guards.items() if not guard.is_passed])
    return metrics


def _tell_power(prompts: int) -> float:
    """Say what so many prompts can show, before anything is spent on judging them."""
    smallest = smallest_detectable_win_rate(prompts, ALPHA, POWER)
    chances = f"one-sided {100 * ALPHA:g} %, power {100 * POWER:g} %"
    _log.info("%d prompts can show a win rate of %.1f %% or more (%s)", prompts, 100 * smallest, chances)
    return smallest


def judge_answers(answers: Answers, config: WinrateConfig) -> Judged:
    """Play policy and control against the reference, and put numbers on it."""
    judge = build_judge(config.judge, config.rules, config.tie_margin, SEED)
    metric = load_metric()
    games_of = [("policy", "reference"), ("control", "reference")]
    games_of += [("policy", CHAMPION)] if CHAMPION in answers.sides else []
    verdicts = {
        (side, opponent): play(judge, answers.pairs(side, opponent), f"judging {side} against {opponent}")
        for side, opponent in games_of
    }
    note(verdicts=sum(map(len, verdicts.values())))
    games, control_games = pair_up(verdicts["policy", "reference"]), pair_up(verdicts["control", "reference"])
    settings = {"alpha": ALPHA, "seed": SEED}
    differences = answers.length_differences(games)
    result = metric.compute(**columns(games), **settings, length_differences=differences)
    control = metric.compute(**columns(control_games), **settings)
    scores = per_prompt(**columns(games))
    shown = columns([game for game in games if game.is_judged])  # identical answers show no judge's bias
    metrics = {
        **result,
        "consistency": consistency(shown["shown_first"], shown["shown_second"]),
        "first_position_share": first_position_share(shown["shown_first"], shown["shown_second"]),
        "judge": judge.fingerprint,
        "judge_kind": config.judge,
        "alpha": ALPHA,
        "identical": len(games) - len(shown["prompt_ids"]),
        "control": {key: control[key] for key in ("win_rate", "se", "low", "high")},
        "slices": _slices(answers, scores),
    }
    if ("policy", CHAMPION) not in verdicts:
        return Judged(verdicts, scores, metrics)
    duels = columns(pair_up(verdicts["policy", CHAMPION]))
    found = metric.compute(**duels, **settings)
    metrics["champion"] = {key: found[key] for key in _DUEL}
    return Judged(verdicts, scores, metrics, per_prompt(**duels))


def _slices(answers: Answers, scores: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Return the win rate within each slice of prompts that has one judged; prompts without a slice are in none."""
    by_slice: dict[str, list[float]] = {}
    for prompt_id, score in scores.items():
        if (name := answers.prompts[prompt_id].get("slice")) is not None:
            by_slice.setdefault(str(name), []).append(score)
    found = {}
    for name, own in sorted(by_slice.items()):
        if any(score == score for score in own):
            rate = win_rate(own, ALPHA, SEED)
            found[name] = {"prompts": len(own), "win_rate": rate.win_rate, "low": rate.low, "high": rate.high}
    return found


def _lengths(measured: Measured) -> dict[str, float]:
    means = {
        f"{side}_tokens_mean": sum(answer.n_tokens for answer in own) / len(own)
        for side, own in (("policy", measured.policy), ("reference", measured.reference))
    }
    return {**means, "ratio": length_ratio(measured.policy, measured.reference)}


def _tell(metrics: dict[str, Any], failed: list[str]) -> None:
    _log.info(
        "win rate %.3f (%.3f to %.3f), %d wins, %d ties, %d losses; reference against itself %.3f",
        *(metrics[key] for key in ("win_rate", "low", "high", "wins", "ties", "losses")),
        metrics["control"]["win_rate"],
    )
    if duel := metrics.get("champion"):
        shown = [duel[key] for key in ("win_rate", "low", "high")]
        _log.info("against the champion %s: %.3f (%.3f to %.3f)", duel["digest"][:12], *shown)
    if failed:
        _log.info("guards not passed: %s", ", ".join(failed))


def main() -> None:
    """Bind the standard paths and params.yaml."""
    with door("winrate", WinrateConfig) as config:
        run(paths.RESPONSES, paths.TOKENS, paths.PAIRS, paths.WINRATE, config)


if __name__ == "__main__":
    main()
