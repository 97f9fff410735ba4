"""Reads the answers: statistics of each side, lengths, and every judged prompt with its answers and verdicts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.core.errors import ArtifactError
from tasks.core.files import read_manifest
from tasks.core.nested import flatten
from tasks.page.answer_facts import Answer, AnswerFacts, JudgedPrompt, Kl, Side, VerdictFacts
from tasks.page.bins import Lengths, histogram, spread
from tasks.page.readers.json_node import Node, read_lines, read_node

BEFORE, AFTER, CHAMPION = "reference", "policy", "champion"
MOST_PROMPTS = 1000  # on the page: it would be too large for a browser with many more


@dataclasses.dataclass(frozen=True)
class Responses:
    """The lines of `responses.jsonl`, by side.

    Attributes:
        answers: The first sample of each (prompt_id, side).
        tokens: Tokens of every sample, by side.
    """

    answers: dict[tuple[str, str], Answer]
    tokens: dict[str, Lengths]


def read_answers(tokens: Path, responses: Path, winrate: Path, most: int = MOST_PROMPTS) -> AnswerFacts:
    """Read the answers of all sides, and of at most ``most`` judged prompts what the judge said of them.

    A prompt's id is a hash of its text, so taking the smallest ids is a draw that does not depend on the results.

    Raises:
        ArtifactError: A folder is unfinished or damaged, a line lacks a key, or a prompt lacks an answer.
    """
    read_manifest(tokens, "encode")
    read_manifest(responses, "respond")
    scores, duels = (_scores(winrate / name) for name in ("scores.jsonl", "champion_scores.jsonl"))
    ids = sorted(scores)[:most]
    shown = set(ids)

    said = _read_responses(responses / "responses.jsonl", shown)
    verdicts = _read_verdicts(winrate / "verdicts.jsonl", shown)
    asked = list(read_lines(tokens / "prompts.jsonl", "encode"))
    if (added := responses / "added_prompts.jsonl").exists():  # those of `respond.prompt_sets`
        asked += read_lines(added, "respond")
    prompts = {name: row for row in asked if (name := row.text("prompt_id")) in shown}

    judged = tuple(_judged(prompts, said, verdicts.get(name, ()), name, scores[name], duels.get(name)) for name in ids)
    metrics = read_node(responses / "metrics.json", "respond")
    return AnswerFacts(
        samples=metrics.count("samples"),
        sides=_sides(metrics, said),
        lengths=histogram((AFTER, said.tokens[AFTER]), (BEFORE, said.tokens[BEFORE])),
        judged=len(scores),
        kl=None if metrics.get("kl") is None else metrics.node("kl").fill(Kl),
        prompts=judged,
    )


def _scores(path: Path) -> dict[str, float | None]:
    """Return the credit of each prompt; nothing where there is no file of champion's scores."""
    if path.name != "scores.jsonl" and not path.is_file():
        return {}
    return {row.text("prompt_id"): row.optional("score") for row in read_lines(path, "winrate")}


def _read_responses(path: Path, ids: Collection[str]) -> Responses:
    answers: dict[tuple[str, str], Answer] = {}
    tokens: dict[str, list[int]] = {}
    for row in read_lines(path, "respond"):
        side, name = row.text("side"), row.text("prompt_id")
        tokens.setdefault(side, []).append(row.count("n_tokens"))
        if row.count("sample") == 0 and name in ids:
            answers[name, side] = Answer(side, row.text("text"), row.text("finish") == "length")
    return Responses(answers, {side: np.array(counts) for side, counts in tokens.items()})


def _read_verdicts(path: Path, ids: Collection[str]) -> dict[str, tuple[VerdictFacts, ...]]:
    """Return the verdicts on the adapter's first answer to each prompt, by its id."""
    verdicts: dict[str, tuple[VerdictFacts, ...]] = {}
    for row in read_lines(path, "winrate"):
        name = row.text("prompt_id")
        if row.text("candidate_side") == AFTER and row.count("sample") == 0 and name in ids:
            verdicts[name] = (*verdicts.get(name, ()), _verdict(row))
    return verdicts


def _verdict(row: Node) -> VerdictFacts:
    detail = dict(row.node("detail").values)
    sides = {"adapter": _said_of(detail.pop("candidate", {})), "opponent": _said_of(detail.pop("opponent", {}))}
    members = detail.pop("members", None)

    (ours, _), (theirs, _) = sides.values()
    notes = {f"{name}, {side}": text for side, (_, texts) in sides.items() for name, text in texts.items()}
    return VerdictFacts(
        opponent=row.text("opponent_side"),
        order=row.text("order"),
        status=row.text("status"),
        credit=row.optional("p_candidate"),
        scores={name: (ours.get(name), theirs.get(name)) for name in dict.fromkeys([*ours, *theirs])},
        members=members if isinstance(members, dict) else {},
        notes={name: _as_text(value) for name, value in detail.items()} | notes,
    )


def _said_of(detail: Any) -> tuple[dict[str, float], dict[str, str]]:
    """Return the numbers and the texts of a judge's detail on one answer; those in objects have their own names."""
    flat = {key.rpartition(".")[2]: value for key, value in flatten(detail).items() if value not in (None, {})}
    numbers = {name: float(value) for name, value in flat.items() if isinstance(value, int | float)}
    return numbers, {name: _as_text(value) for name, value in flat.items() if name not in numbers}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _judged(
    prompts: Mapping[str, Node],
    said: Responses,
    verdicts: tuple[VerdictFacts, ...],
    name: str,
    score: float | None,
    champion_score: float | None,
) -> JudgedPrompt:
    if name not in prompts:
        raise ArtifactError(f"prompt {name} was judged but is not among the encoded prompts", "run `dvc repro`")
    absent = [side for side in (BEFORE, AFTER) if (name, side) not in said.answers]
    if absent:
        raise ArtifactError(f"prompt {name} was judged but has no answer of the {absent[0]}", "run `dvc repro`")

    prompt, sides = prompts[name], (BEFORE, AFTER, CHAMPION)
    question, display = prompt.text("question"), prompt.text("display")
    return JudgedPrompt(
        prompt_id=name,
        slice=None if prompt.get("slice") is None else prompt.text("slice"),
        question=question,
        whole_prompt=display if len(display) > len(question) + 20 else None,
        answers=tuple(said.answers[name, side] for side in sides if (name, side) in said.answers),
        verdicts=verdicts,
        score=score,
        champion_score=champion_score,
    )


def _sides(metrics: Node, said: Responses) -> tuple[Side, ...]:
    """Return the sides with their statistics; policy and reference first."""
    nodes = metrics.node("sides").nodes()
    order = sorted(nodes, key=lambda name: (name != AFTER, name != BEFORE, name))
    return tuple(nodes[name].fill(Side, name=name, spread=spread(name, said.tokens[name])) for name in order)
