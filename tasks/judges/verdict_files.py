"""Writes the evidence to files: every verdict, the score of every prompt, and tables for plots."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tasks.core.files import sha256_bytes, write_text
from tasks.core.json_lines import write_json_lines
from tasks.judges.games import Game, Verdict
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


def columns(games: Iterable[Game]) -> dict[str, list[Any]]:
    """Return games as the metric's input columns."""
    rows = [(game.prompt_id, game.shown_first, game.shown_second) for game in games]
    names = ("prompt_ids", "shown_first", "shown_second")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


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
    _write_lines(folder / "verdicts.jsonl", verdicts)
    _write_lines(folder / "scores.jsonl", [_score(answers, *pair) for pair in judged.scores.items()])
    if judged.duel is not None:
        lines = [_score(answers, *pair, opponent=CHAMPION) for pair in judged.duel.items()]
        _write_lines(folder / "champion_scores.jsonl", lines)

    # tables for plots; of several samples of a prompt, the first one's totals
    totals = {one.prompt_id: _totals(one) for one in reversed(judged.verdicts["policy", "reference"])}
    table = [[name, _or_none(score), *totals[name]] for name, score in judged.scores.items()]
    _write_table(folder / "scores.csv", ["prompt_id", "score", "policy_total", "reference_total"], table)
    lengths = [[*key, *_tokens(answers, key)] for key in answers.sides["policy"]]
    _write_table(folder / "lengths.csv", ["prompt_id", "sample", "policy_tokens", "reference_tokens"], lengths)


def _or_none(score: float) -> float | None:
    return score if score == score else None


def _score(answers: Answers, prompt_id: str, score: float, opponent: str = "reference") -> Row:
    digests = {
        f"{side}_text": sha256_bytes(answers.sides[side][prompt_id, 0].text.encode()) for side in ("policy", opponent)
    }
    return {
        "prompt_id": prompt_id,
        "score": _or_none(score),
        "slice": answers.prompts[prompt_id].get("slice"),
        **digests,
    }


def _totals(verdict: Verdict) -> list[float | None]:
    """Return the judge's total for both answers, where it gives totals."""
    return [verdict.detail.get(side, {}).get("total") for side in ("candidate", "opponent")]


def _tokens(answers: Answers, key: tuple[str, int]) -> list[int]:
    return [answers.sides[side][key].n_tokens for side in ("policy", "reference")]


def _write_lines(path: Path, rows: Iterable[Row]) -> None:
    write_json_lines(path, map(rounded, rows))


def _write_table(path: Path, header: list[str], rows: Iterable[list[Any]]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rounded(list(rows)))
    write_text(path, stream.getvalue())
