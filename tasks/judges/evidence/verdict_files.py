"""Writes the evidence to files: every verdict as it comes, the score of every prompt, and tables for plots."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tasks.core.files import sha256_bytes, write_text
from tasks.core.json_lines import json_line, write_json_lines
from tasks.judges.evidence.judged_answers import CHAMPION, Answers
from tasks.judges.games.games import Verdict

DIGITS = 6
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Judged:
    """The result of judging.

    Attributes:
        scores: The policy's credit against the reference by prompt, NaN where the verdict is missing.
        metrics: The numbers computed from the verdicts.
        totals: The judge's score of the policy's and the reference's first sample by prompt, where it gives scores.
        duel: The policy's credit against the champion, as ``scores``; None without a champion.
    """

    scores: dict[str, float]
    metrics: dict[str, Any]
    totals: dict[str, tuple[float | None, float | None]]
    duel: dict[str, float] | None = None


class VerdictWriter:
    """Writes verdicts to a file as they come; a context manager, whose file appears whole at its end."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        self._stream = self._path.open("w", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stream.close()

    def through(self, verdicts: Iterable[Verdict], candidate: str, opponent: str) -> Iterator[Verdict]:
        """Write each verdict on its way from a judge to whoever counts it."""
        for verdict in verdicts:
            row = {"candidate_side": candidate, "opponent_side": opponent, **dataclasses.asdict(verdict)}
            self._stream.write(json_line(rounded(row)))
            yield verdict


def rounded(value: Any) -> Any:
    """Round every float in nested dicts and lists, so that a difference in the last bit does not change a file."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def write_evidence(folder: Path, answers: Answers, judged: Judged) -> None:
    """Write scores and the tables for plots into ``folder``."""
    scores = _scores(answers, judged.scores, "reference")
    write_json_lines(folder / "scores.jsonl", rounded(scores))
    if judged.duel is not None:
        write_json_lines(folder / "champion_scores.jsonl", rounded(_scores(answers, judged.duel, CHAMPION)))

    table = [[row["prompt_id"], row["score"], *judged.totals.get(row["prompt_id"], (None, None))] for row in scores]
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
            "slice": answers.rows[prompt_id].get("slice"),
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
