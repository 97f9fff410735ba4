"""Reads the facts about training: its curves, and the held-out measures before and after."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tasks.core.files import read_manifest
from tasks.page.facts import Measures, TrainingFacts
from tasks.page.measured import Curve
from tasks.page.readers.json_node import Node, read_columns, read_node

MEASURES = tuple(field.name for field in dataclasses.fields(Measures))
_MOST_POINTS = 240


def read_training(results: Path, beta: float | None = None) -> TrainingFacts:
    """Read `results/train/`.

    Args:
        results: The folder.
        beta: β of the objective, by which log-ratios are scaled to rewards; None where it is not known.

    Raises:
        ArtifactError: The folder is unfinished or damaged, or a file lacks a key or column.
    """
    read_manifest(results, "train")
    metrics = read_node(results / "metrics.json", "train")
    pairs = metrics.node("pairs")
    return metrics.fill(
        TrainingFacts,
        train_pairs=pairs.count("train"),
        test_pairs=pairs.count("test"),
        tokens=metrics.count("tokens_train"),
        before=metrics.node("before").fill(Measures),
        after=metrics.node("after").fill(Measures),
        log_ratios=_log_ratios(metrics.node("after"), beta),
        train_curves=_curves(results / "steps.csv"),
        eval_curves=_curves(results / "evals.csv"),
    )


def _log_ratios(after: Node, beta: float | None) -> dict[str, float]:
    """Return the mean log-ratios, which are the rewards of Eq. 7 of arXiv:2305.18290 before β."""
    return {name: after.number(f"reward_{name}") / beta for name in ("chosen", "rejected")} if beta else {}


def _curves(path: Path) -> dict[str, Curve]:
    columns = read_columns(path, ("step", *MEASURES), "train")
    return {name: thin(tuple(zip(columns["step"], columns[name], strict=True))) for name in MEASURES}


def thin(points: Curve, most: int = _MOST_POINTS) -> Curve:
    """Return at most ``most`` points, each the mean of neighbouring ones, which keeps the page of a long run small."""
    run = -(-len(points) // most)
    if run <= 1:
        return points
    runs = [points[start : start + run] for start in range(0, len(points), run)]
    return tuple((part[-1][0], sum(value for _, value in part) / len(part)) for part in runs)
