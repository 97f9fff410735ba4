"""Judge the policy's answers against the reference's and the champion's, in both orders, and estimate the win rate.

reads:  data/responses/, data/tokens/prompts.jsonl, data/pairs/ (for guards)
writes: results/winrate/ — metrics.json, verdicts.jsonl, scores.jsonl, scores.csv, lengths.csv; with a
        champion, champion_scores.jsonl
params: `winrate` in params.yaml
run as: python -m tasks.winrate
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tasks.core import paths
from tasks.core.files import atomic_folder, manifest_digest, pretty_json, read_json, read_manifest, write_text
from tasks.core.section import Section, between
from tasks.estimation.bounds import ALPHA
from tasks.estimation.power import POWER, describe_power, smallest_detectable_win_rate, spent_alpha
from tasks.judges.choice import CONTROLS, JudgeKind, build_judge
from tasks.judges.guards import GuardLimits, Measured, check_guards, length_ratio
from tasks.judges.judged_answers import read_answers
from tasks.judges.judging import judge_answers
from tasks.judges.leakage import measure_leakage
from tasks.judges.protocol import Answer
from tasks.judges.rules import RulesConfig
from tasks.judges.verdict_files import rounded, write_evidence
from tasks.launch.stage import door
from tasks.telemetry import log

SEED = 0  # of the sign flips, the length-controlled rate's bootstrap and the random judge
_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class WinrateConfig(Section, path="winrate"):
    """How answers are judged, and the limits that the result must keep.

    Attributes:
        judge: `rules`; or `length` or `random`, controls that ignore quality: a guard fails with them.
        tie_margin: Rule scores that differ by so much or less are a tie.
        rules: The rules of the rule judge.
        guards: The limits of the guards.
    """

    REMOVED: ClassVar[Mapping[str, str]] = {
        "alpha": f"delete it: intervals are at 1 - {ALPHA}; `register.gate.alpha` is the gate's",
        "power": f"delete it: the smallest detectable win rate is at a power of {POWER}",
        "seed": f"delete it: the seed is {SEED}",
    }

    judge: JudgeKind
    tie_margin: Annotated[float, between(0, 1, "[)")]
    rules: RulesConfig
    guards: GuardLimits


@dataclasses.dataclass(frozen=True)
class Folders:
    """What the stage reads and writes."""

    responses: Path = paths.RESPONSES
    tokens: Path = paths.TOKENS
    pairs: Path = paths.PAIRS
    out: Path = paths.WINRATE


def run(folders: Folders, config: WinrateConfig) -> dict[str, Any]:
    """Judge all answers, write the evidence under ``folders.out`` and return its metrics.

    Raises:
        ArtifactError: An input is missing or damaged, or answers and prompts do not belong together.
        DataError: The judge gave no usable verdict at all.
    """
    inputs = {
        "responses": manifest_digest(folders.responses, "respond"),
        "tokens": manifest_digest(folders.tokens, "encode"),
        "pairs": manifest_digest(folders.pairs, "ingest"),
    }
    answers = read_answers(folders.responses, folders.tokens)
    _log.info("%s", describe_power(len(answers.prompts), paths.PARAMS))

    judge = build_judge(config.judge, config.rules, config.tie_margin, SEED)
    judged = judge_answers(answers, judge, ALPHA, SEED)

    measured = Measured(
        policy=list(answers.sides["policy"].values()),
        reference=[answers.sides["reference"][key] for key in answers.sides["policy"]],
        max_abs_delta_logit=read_json(folders.responses / "metrics.json")["adapter_max_abs_delta_logit"],
        leakage=measure_leakage(folders.pairs, answers.prompts, config.guards.overlap_words),
        control_rate=judged.metrics["control"]["win_rate"],
        control_se=judged.metrics["control"]["se"],
        is_control_judge=config.judge in CONTROLS,
    )
    guards = check_guards(measured, config.guards)

    if judged.duel is not None:
        judged.metrics["champion"]["digest"] = read_manifest(folders.responses, "respond")["inputs"]["champion"]
    metrics = {
        **judged.metrics,
        "judge_kind": config.judge,
        "smallest_detectable_win_rate": smallest_detectable_win_rate(len(answers.prompts), spent_alpha(ALPHA, 1)),
        "lengths": {
            "policy_tokens_mean": _tokens_mean(measured.policy),
            "reference_tokens_mean": _tokens_mean(measured.reference),
            "ratio": length_ratio(measured.policy, measured.reference),
        },
        "guards": {name: guard.as_json() for name, guard in guards.items()},
    }
    with atomic_folder(folders.out, {"stage": "winrate", "inputs": inputs}) as draft:
        write_text(draft / "metrics.json", pretty_json(rounded(metrics)))
        write_evidence(draft, answers, judged)
    _report(metrics, [name for name, guard in guards.items() if not guard.is_passed])
    return metrics


def _tokens_mean(answers: Sequence[Answer]) -> float:
    return sum(answer.n_tokens for answer in answers) / len(answers)


def _report(metrics: dict[str, Any], failed: list[str]) -> None:
    """Log the win rates, and which guards did not pass."""
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
        run(Folders(), config)


if __name__ == "__main__":
    main()
