"""Writes the evidence to files: every verdict, the score of every prompt, and tables for plots."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core.files import sha256_bytes, write_text
from tasks.core.json_lines import write_json_lines
from tasks.judges.games import Verdict
from tasks.judges.judged_answers import CHAMPION, Answers

DIGITS = 6
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Judged:
    """The result of judging.

    Attributes:
        verdicts: By (candidate, opponent): policy and control against the reference, and the policy against the
            champion where there is one.
        scores: The policy's credit against the reference by prompt, NaN where the verdict is missing.
        metrics: The numbers computed from them.
        duel: The policy's credit against the champion, as ``scores``; None without a champion.
    """

    verdicts: dict[tuple[str, str], list[Verdict]]
    scores: dict[str, float]
    metrics: dict[str, Any]
    duel: dict[str, float] | None = None


def rounded(value: Any) -> Any:
    """Round every float in nested dicts and lists, so that a difference in the last bit does not change a file."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def write_evidence(folder: Path, answers: Answers, judged: Judged) -> None:
    """Write verdicts, scores and the tables for plots into ``folder``."""
    verdicts = [
        {"candidate_side": side, "opponent_side": opponent, **dataclasses.asdict(verdict)}
        for (side, opponent), side_verdicts in judged.verdicts.items()
        for verdict in side_verdicts
    ]
    scores = _scores(answers, judged.scores, "reference")
    write_json_lines(folder / "verdicts.jsonl", rounded(verdicts))
    write_json_lines(folder / "scores.jsonl", rounded(scores))
    if judged.duel is not None:
        write_json_lines(folder / "champion_scores.jsonl", rounded(_scores(answers, judged.duel, CHAMPION)))

    # the judge's totals, where it gives any; of several samples of a prompt, those of the first
    details = {verdict.prompt_id: verdict.detail for verdict in reversed(judged.verdicts["policy", "reference"])}
    totals = {
        name: [detail.get(side, {}).get("total") for side in ("candidate", "opponent")]
        for name, detail in details.items()
    }
    table = [[row["prompt_id"], row["score"], *totals[row["prompt_id"]]] for row in scores]
    _write_table(folder / "scores.csv", ["prompt_id", "score", "policy_total", "reference_total"], table)

    policy, reference = answers.sides["policy"], answers.sides["reference"]
    lengths = [[*key, policy[key].n_tokens, reference[key].n_tokens] for key in policy]
    _write_table(folder / "lengths.csv", ["prompt_id", "sample", "policy_tokens", "reference_tokens"], lengths)


def _scores(answers: Answers, credits: Mapping[str, float], opponent: str) -> list[Row]:
    """Return a line for each prompt: the policy's credit, and hashes of the first sample of both sides."""
    return [
        {
            "prompt_id": prompt_id,
            "score": credit if credit == credit else None,  # NaN: no verdict
            "slice": answers.prompts[prompt_id].get("slice"),
            **{
                f"{side}_text": sha256_bytes(answers.sides[side][prompt_id, 0].text.encode())
                for side in ("policy", opponent)
            },
        }
        for prompt_id, credit in credits.items()
    ]


def _write_table(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rounded(rows))
    write_text(path, stream.getvalue())
