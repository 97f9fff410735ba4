"""Reads the answers: statistics of each side, lengths, and examples chosen independently of the results."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from tasks.core.errors import ArtifactError
from tasks.core.files import read_manifest
from tasks.page.bins import Lengths, histogram, spread
from tasks.page.facts import AnswerFacts, Example, Side
from tasks.page.readers.json_node import Node, read_lines, read_node

BEFORE, AFTER = "reference", "policy"


@dataclasses.dataclass(frozen=True)
class Answers:
    """The lines of `responses.jsonl`, by side.

    Attributes:
        texts: The first sample of each (prompt_id, side): its text, and whether the length limit cut it.
        tokens: Tokens of every sample, by side.
    """

    texts: dict[tuple[str, str], tuple[str, bool]]
    tokens: dict[str, Lengths]


def read_answers(tokens: Path, responses: Path, winrate: Path, drawn: int, lost: int) -> AnswerFacts:
    """Read the answers of all sides, and choose ``drawn`` prompts blindly and up to ``lost`` more that were lost.

    A prompt's id is a hash of its text, so taking the smallest ids is a draw that does not depend on the results.

    Raises:
        ArtifactError: A folder is unfinished or damaged, a line lacks a key, or a prompt lacks an answer.
    """
    read_manifest(tokens, "encode")
    read_manifest(responses, "respond")
    answers = _read_responses(responses / "responses.jsonl")

    scores = {row.text("prompt_id"): row.optional("score") for row in read_lines(winrate / "scores.jsonl", "winrate")}
    ids = sorted(scores)
    blind = ids[:drawn]
    losses = [name for name in ids[drawn:] if (score := scores[name]) is not None and score < 0.5][:lost]
    prompts = {row.text("prompt_id"): row for row in read_lines(tokens / "prompts.jsonl", "encode")}
    if (added := responses / "added_prompts.jsonl").exists():  # those of `respond.prompt_sets`
        prompts |= {row.text("prompt_id"): row for row in read_lines(added, "respond")}

    examples = tuple(_example(name, prompts, answers, scores[name]) for name in (*blind, *losses))

    metrics = read_node(responses / "metrics.json", "respond")
    return AnswerFacts(
        samples=metrics.count("samples"),
        sides=_sides(metrics, answers),
        lengths=histogram((AFTER, answers.tokens[AFTER]), (BEFORE, answers.tokens[BEFORE])),
        drawn=examples[: len(blind)],
        lost=examples[len(blind) :],
    )


def _read_responses(path: Path) -> Answers:
    texts: dict[tuple[str, str], tuple[str, bool]] = {}
    tokens: dict[str, list[int]] = {}
    for row in read_lines(path, "respond"):
        side = row.text("side")
        tokens.setdefault(side, []).append(row.count("n_tokens"))
        if row.count("sample") == 0:
            texts[row.text("prompt_id"), side] = (row.text("text"), row.text("finish") == "length")
    return Answers(texts, {side: np.array(counts) for side, counts in tokens.items()})


def _example(name: str, prompts: dict[str, Node], answers: Answers, score: float | None) -> Example:
    if name not in prompts:
        raise ArtifactError(f"prompt {name} was judged but is not among the encoded prompts", "run `dvc repro`")
    absent = [side for side in (BEFORE, AFTER) if (name, side) not in answers.texts]
    if absent:
        raise ArtifactError(f"prompt {name} was judged but has no answer of the {absent[0]}", "run `dvc repro`")
    prompt = prompts[name]
    question, display = prompt.text("question"), prompt.text("display")
    (before, before_is_cut), (after, after_is_cut) = (answers.texts[name, side] for side in (BEFORE, AFTER))
    return Example(
        prompt_id=name,
        slice=None if prompt.get("slice") is None else prompt.text("slice"),
        question=question,
        whole_prompt=display if len(display) > len(question) + 20 else None,
        before=before,
        after=after,
        score=score,
        before_is_cut=before_is_cut,
        after_is_cut=after_is_cut,
    )


def _sides(metrics: Node, answers: Answers) -> tuple[Side, ...]:
    """Return the sides with their statistics; policy and reference first."""
    nodes = metrics.node("sides").nodes()
    order = sorted(nodes, key=lambda name: (name != AFTER, name != BEFORE, name))
    return tuple(nodes[name].fill(Side, name=name, spread=spread(name, answers.tokens[name])) for name in order)
