"""Reads the facts about training: its curves, and the held-out measures before and after."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tasks.core.files import read_manifest
from tasks.page.facts import Curve, Measures, TrainingFacts
from tasks.page.readers.json_node import read_columns, read_node

MEASURES = tuple(field.name for field in dataclasses.fields(Measures))
_MOST_POINTS = 240


def read_training(results: Path) -> TrainingFacts:
    """Read `results/train/`.

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
        train_curves=_curves(results / "steps.csv"),
        eval_curves=_curves(results / "evals.csv"),
    )


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
