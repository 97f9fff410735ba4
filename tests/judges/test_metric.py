"""The metric as an `evaluate` module: loaded from its folder, offline, in agreement with the functions."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tasks.estimation.estimates import per_prompt, win_rate
from tasks.judges.metric import METRIC, load_metric
from tests.conftest import ROOT

COLUMNS = {
    "prompt_ids": ["a", "a", "b", "c", "d"],
    "shown_first": [1.0, 1.0, 0.0, float("nan"), 1.0],
    "shown_second": [1.0, 0.0, 0.0, 1.0, 0.5],
}


@pytest.fixture(scope="module")
def metric():
    return load_metric()


def test_the_metric_gives_what_the_functions_give(metric):
    result = metric.compute(**COLUMNS, seed=3)
    expected = win_rate(list(per_prompt(**COLUMNS).values()))
    assert {key: result[key] for key in dataclasses.asdict(expected)} == dataclasses.asdict(expected)
    assert result["seed"] == 3
    assert result["coverage"] == 0.75  # c has one order only: missing, never a tie
    assert result["win_rate"] == pytest.approx((0.75 + 0.0 + 0.75) / 3)
    assert "length_controlled" not in result


def test_the_metric_computes_twice_without_remembering(metric):
    assert metric.compute(**COLUMNS) == metric.compute(**COLUMNS)
    assert len(metric) == 0


def test_lengths_are_averaged_within_the_prompt(metric):
    rng = np.random.default_rng(0)
    names = [f"p{i // 2}" for i in range(120)]
    credit = rng.choice([0.0, 1.0], size=120).tolist()
    result = metric.compute(
        prompt_ids=names, shown_first=credit, shown_second=credit, length_differences=rng.normal(size=120).tolist()
    )
    assert result["prompts"] == 60
    assert 0 < result["length_controlled"]["win_rate"] < 1


def test_the_metric_explains_itself(metric):
    assert "missing verdicts" in metric.description
    assert "shown_second" in metric.inputs_description
    assert not math.isnan(metric.compute(**COLUMNS)["se"])


def test_evaluate_load_works_on_the_folder_from_the_root(metric, monkeypatch):
    import evaluate

    monkeypatch.chdir(ROOT)
    again = evaluate.load("tasks/judges/win_rate")
    assert again.compute(**COLUMNS) == metric.compute(**COLUMNS)


def test_loading_writes_nothing_beside_the_metric():
    load_metric()
    assert {path.name for path in METRIC.iterdir()} - {"__pycache__"} == {"__init__.py", "win_rate.py"}
