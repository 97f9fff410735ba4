"""Reads the answers to judge from the outputs of `respond` and `encode`, and checks one against the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tasks.core.errors import ArtifactError
from tasks.core.json_lines import read_json_lines
from tasks.judges.games.games import Comparison
from tasks.judges.protocol.conversations import conversations, turns_of
from tasks.judges.protocol.protocol import Answer, Prompt

SIDES = ("policy", "reference", "control")
CHAMPION = "champion"  # a side only where `respond.champion` names one
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answered prompts.

    Attributes:
        rows: What `encode` wrote of each, in order, by its id.
        prompts: The conversations, by the same ids.
        sides: The answers of every side by (prompt, sample).
    """

    rows: dict[str, Row]
    prompts: dict[str, Prompt]
    sides: dict[str, dict[tuple[str, int], Answer]]

    def pairs(self, candidate: str, opponent: str = "reference") -> list[Comparison]:
        """Pair a side's answers with an opponent's, sample by sample."""
        return [
            Comparison(
                prompt_id,
                sample,
                self.prompts[prompt_id],
                candidate=answer,
                opponent=self.sides[opponent][prompt_id, sample],
            )
            for (prompt_id, sample), answer in self.sides[candidate].items()
        ]


def read_answers(responses: Path, tokens: Path, pairs: Path) -> Answers:
    """Read answers and their prompts, and check that each side answered each prompt equally often.

    Raises:
        ArtifactError: A line is malformed, or an answer is missing or has no prompt.
    """
    named = ("prompt_id", "question", "ids")
    known = {row["prompt_id"]: row for row in read_json_lines(tokens / "prompts.jsonl", "encode", named)}
    added = responses / "added_prompts.jsonl"  # those of `respond.prompt_sets`
    for row in read_json_lines(added, "respond", (*named, "prompt")) if added.exists() else ():
        known[row["prompt_id"]] = row
    sides: dict[str, dict[tuple[str, int], Answer]] = {side: {} for side in SIDES}
    keys = ("prompt_id", "side", "sample", "text", "n_tokens", "finish")
    for row in read_json_lines(responses / "responses.jsonl", "respond", keys):
        if row["side"] == CHAMPION:
            sides.setdefault(CHAMPION, {})
        if row["side"] in sides:
            answer = Answer(row["text"], row["finish"], row["n_tokens"])
            sides[row["side"]][row["prompt_id"], row["sample"]] = answer

    # every side must have answered what the reference answered
    wanted = set(sides["reference"])
    for side, by_key in sides.items():
        if set(by_key) != wanted or not wanted:
            prompt_id = min(set(by_key) ^ wanted, default=("?", 0))[0]
            raise ArtifactError(
                f"{responses}/responses.jsonl: {side} and reference did not answer the same (prompt {prompt_id})",
                "run `dvc repro -f respond`",
            )

    answered = dict.fromkeys(prompt_id for prompt_id, _ in sides["reference"])
    if unknown := [prompt_id for prompt_id in answered if prompt_id not in known]:
        raise ArtifactError(
            f"prompt {unknown[0]} was answered but is not in {tokens}/prompts.jsonl", "run `dvc repro respond`"
        )
    return Answers({name: known[name] for name in answered}, _prompts(pairs, answered, known), sides)


def _prompts(pairs: Path, answered: Collection[str], known: Mapping[str, Row]) -> dict[str, Prompt]:
    """Return the conversations of the answered prompts.

    Raises:
        ArtifactError: A prompt is not in `test.parquet`.
    """
    turns = {name: turns_of(known[name]["prompt"]) for name in answered if "prompt" in known[name]}
    turns |= conversations(pairs, set(answered) - set(turns))
    if unknown := [name for name in answered if name not in turns]:
        raise ArtifactError(
            f"prompt {unknown[0]} was answered but is not in {pairs}/test.parquet", "run `dvc repro respond`"
        )
    rows = {name: known[name] for name in answered}
    return {name: Prompt(turns[name], row.get("gold_chosen"), tuple(row["ids"])) for name, row in rows.items()}
