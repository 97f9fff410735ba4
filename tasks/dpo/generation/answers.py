"""The answers of all sides as rows: put in order, checked to be complete, described."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tasks.core.errors import ArtifactError
from tasks.dpo.generation.held_out import Row
from tasks.dpo.generation.sampling import Side


def merge(rows: list[Row], prompts: list[Row], sides: Sequence[Side], samples: int) -> list[Row]:
    """Order answers by prompt, side and sample, and check that each is there exactly once.

    Raises:
        ArtifactError: An answer is missing, doubled or of no prompt.
    """
    wanted = [(row["prompt_id"], side, sample) for row in prompts for side in sides for sample in range(samples)]
    counts, once = Counter((row["prompt_id"], row["side"], row["sample"]) for row in rows), Counter(wanted)
    wrong = [key for key in counts | once if counts[key] != once[key]]
    if wrong:
        prompt_id, side, sample = min(wrong)
        raise ArtifactError(
            f"{len(wrong)} answers are missing, doubled or unasked for: prompt {prompt_id}, {side}, sample {sample}",
            "delete runs/respond and run `dvc repro respond`",
        )
    by_key = {(row["prompt_id"], row["side"], row["sample"]): row for row in rows}
    return [by_key[key] for key in wanted]


def describe(answers: list[Row], sides: Sequence[Side], prompts: int, samples: int) -> dict[str, Any]:
    """Return the stage's metrics: how much was answered, and what each side's answers are like."""
    return {
        "prompts": prompts,
        "samples": samples,
        "sides": {side: describe_side([row for row in answers if row["side"] == side]) for side in sides},
    }


def describe_side(answers: list[Row]) -> dict[str, float]:
    """Return a side's mean length in tokens, and its shares of empty, truncated and distinct answers."""
    count = len(answers)
    return {
        "tokens_mean": round(sum(row["n_tokens"] for row in answers) / count, 6),
        "empty": round(sum(not row["text"].strip() for row in answers) / count, 6),
        "truncated": round(sum(row["finish"] == "length" for row in answers) / count, 6),
        "distinct_ratio": round(len({row["text"] for row in answers}) / count, 6),
    }
