"""Judge the policy's answers against the reference's and the champion's, in both orders, and estimate the win rate.

reads:  data/responses/, data/tokens/prompts.jsonl, data/pairs/ (conversations, and for guards), results/qualification/;
        for the judge `own` data/base/
reads:  data/responses/, data/tokens/prompts.jsonl, data/pairs/ (conversations, and for guards), results/qualification/,
        results/benchmarks/
writes: results/winrate/ — metrics.json, verdicts.jsonl, scores.jsonl, scores.csv, lengths.csv; with a
        champion, champion_scores.jsonl
params: `winrate` in params.yaml
run as: python -m tasks.winrate
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.core import paths
from tasks.core.errors import ConfigError
from tasks.core.files import atomic_folder, manifest_digest, pretty_json, read_json, read_manifest, write_text
from tasks.core.params import load_section
from tasks.core.runtime import RuntimeConfig
from tasks.estimation.bounds import ALPHA
from tasks.estimation.power import describe_power, smallest_detectable_win_rate, spent_alpha
from tasks.judges.choice.build import build_judge, is_control, is_paid, kind_of
from tasks.judges.choice.config import SEED, WinrateConfig
from tasks.judges.evidence.guards import Measured, check_guards, length_ratio
from tasks.judges.evidence.judged_answers import Answers, read_answers
from tasks.judges.evidence.judging import judge_answers
from tasks.judges.evidence.leakage import measure_leakage
from tasks.judges.evidence.verdict_files import Judged, VerdictWriter, rounded, write_evidence
from tasks.judges.games.runners import JudgeRunner
from tasks.judges.models.model_choices import ModelPlace
from tasks.judges.protocol.protocol import Answer
from tasks.judges.qualification.qualification import read_papers
from tasks.launch.stage import door, run_first
from tasks.telemetry import log

_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class Folders:
    """What the stage reads and writes."""

    responses: Path = paths.RESPONSES
    tokens: Path = paths.TOKENS
    pairs: Path = paths.PAIRS
    benchmarks: Path = paths.BENCHMARKS
    qualification: Path = paths.QUALIFICATION
    out: Path = paths.WINRATE
    base: Path = paths.BASE


def run(folders: Folders, config: WinrateConfig, runtime: RuntimeConfig | None = None) -> dict[str, Any]:
    """Judge all answers, write the evidence under ``folders.out`` and return its metrics.

    Raises:
        ArtifactError: An input is missing or damaged, or answers and prompts do not belong together.
        DataError: The judge gave no usable verdict at all.
        ConfigError: A judge that may cost money does not qualify.
    """
    inputs = {
        "responses": manifest_digest(folders.responses, "respond"),
        "tokens": manifest_digest(folders.tokens, "encode"),
        "pairs": manifest_digest(folders.pairs, "ingest"),
        "qualification": manifest_digest(folders.qualification, "qualify"),
    }
    if folders.benchmarks.exists():  # not where the stages are run by hand
        inputs["benchmarks"] = manifest_digest(folders.benchmarks, "benchmarks")
    place = ModelPlace(folders.pairs, folders.tokens, folders.base, folders.qualification, runtime or RuntimeConfig())
    kind, judge = kind_of(config, folders.pairs), build_judge(config, folders.pairs, place)
    papers = _papers(folders, config, kind, judge)
    answers = read_answers(folders.responses, folders.tokens, folders.pairs)
    _log.info("%s", describe_power(len(answers.prompts), paths.PARAMS))

    with atomic_folder(folders.out, {"stage": "winrate", "inputs": inputs}) as draft:
        with VerdictWriter(draft / "verdicts.jsonl") as writer:
            judged = judge_answers(answers, judge, ALPHA, SEED, writer)
        measured = _measured(folders, config, answers, judged, papers)
        guards = check_guards(measured, config.guards)
        metrics = {
            **judged.metrics,
            "judge_kind": kind,
            "qualification": papers,
            "smallest_detectable_win_rate": smallest_detectable_win_rate(len(answers.prompts), spent_alpha(ALPHA, 1)),
            "lengths": {
                "policy_tokens_mean": _tokens_mean(measured.policy),
                "reference_tokens_mean": _tokens_mean(measured.reference),
                "ratio": length_ratio(measured.policy, measured.reference),
            },
            "guards": {name: guard.as_json() for name, guard in guards.items()},
        }
        if judged.duel is not None:
            metrics["champion"]["digest"] = read_manifest(folders.responses, "respond")["inputs"]["champion"]
        write_text(draft / "metrics.json", pretty_json(rounded(metrics)))
        write_evidence(draft, answers, judged)

    _report(metrics, [name for name, guard in guards.items() if not guard.is_passed])
    return metrics


def _papers(folders: Folders, config: WinrateConfig, kind: str, judge: JudgeRunner) -> dict[str, Any]:
    papers = read_papers(folders.qualification, judge.fingerprint)
    if papers["faults"] and is_paid(config.judge):
        raise ConfigError(
            f"the judge `{kind}` does not qualify, so it is not paid for any answer: {'; '.join(papers['faults'])}",
            "choose another model, write `winrate.judge.criteria` by which the labels were given, or measure it on "
            "labels of your own (`winrate.qualification.file`)",
        )
    for fault in papers["faults"]:
        _log.warning("the judge `%s` does not qualify, so its win rate is not to be believed: %s", kind, fault)
    return papers


def _measured(
    folders: Folders, config: WinrateConfig, answers: Answers, judged: Judged, papers: Mapping[str, Any]
) -> Measured:
    """Return what the guards check."""
    scored = folders.benchmarks / "metrics.json"
    added = {name: row["prompt"] for name, row in answers.rows.items() if "prompt" in row}
    return Measured(
        policy=list(answers.sides["policy"].values()),
        reference=[answers.sides["reference"][key] for key in answers.sides["policy"]],
        max_abs_delta_logit=read_json(folders.responses / "metrics.json")["adapter_max_abs_delta_logit"],
        leakage=measure_leakage(folders.pairs, answers.prompts, config.guards.overlap_words, added),
        control_rate=judged.metrics["control"]["win_rate"],
        control_se=judged.metrics["control"]["se"],
        papers=papers,
        benchmark_drop=read_json(scored)["greatest_drop"] if scored.is_file() else None,
        is_control_judge=is_control(config.judge),
    )


def _tokens_mean(answers: Sequence[Answer]) -> float:
    return sum(answer.n_tokens for answer in answers) / len(answers)


def _report(metrics: dict[str, Any], failed: list[str]) -> None:
    """Log the win rates, and which guards did not pass; a rate beside a failed guard is not to be believed."""
    _log.info(
        "%swin rate %.3f (%.3f to %.3f), %d wins, %d ties, %d losses; reference against itself %.3f",
        "not to be believed, for a guard fails: " if failed else "",
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
        folders, runtime = Folders(), load_section(paths.PARAMS, "runtime", RuntimeConfig)
        if not folders.qualification.exists():
            _log.info("%s is missing, for DVC did not start this stage: the judge is measured now", paths.QUALIFICATION)
            run_first("qualify")
        run(folders, config, runtime)


if __name__ == "__main__":
    main()
