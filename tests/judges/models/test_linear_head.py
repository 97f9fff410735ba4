"""The Bradley-Terry head: its optimum by hand, its symmetry, its penalty, its file."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.judges.models.linear_head import STRENGTHS, Head, best_strength, fit, out_of_fold


def test_the_optimum_of_one_feature_by_hand() -> None:
    # 3 of 4 pairs prefer the larger x by 1, without a penalty: σ(w) = 3/4, so w = ln 3
    differences = np.array([[1.0], [1.0], [1.0], [-1.0]])
    assert fit(differences, np.ones(4), 0.0)[0] == pytest.approx(math.log(3), abs=1e-4)


def test_a_weight_counts_as_so_many_pairs() -> None:
    once = fit(np.array([[1.0], [-1.0]]), np.array([3.0, 1.0]), 0.1)
    assert once == pytest.approx(fit(np.array([[1.0]] * 3 + [[-1.0]]), np.ones(4), 0.1), abs=1e-6)


def test_swapped_labels_give_the_opposite_head() -> None:
    differences = np.random.default_rng(0).standard_normal((50, 3)) + 0.3
    assert fit(-differences, np.ones(50), 0.1) == pytest.approx(-fit(differences, np.ones(50), 0.1), abs=1e-5)


def test_the_penalty_is_chosen_out_of_fold() -> None:
    draw = np.random.default_rng(1)
    folds = draw.integers(0, 5, 200)
    noise = draw.standard_normal((200, 60))
    assert best_strength(noise, np.ones(200), folds) in STRENGTHS[:2], "there is nothing to learn"
    clear = draw.standard_normal((200, 2)) + 1.5
    assert best_strength(clear, np.ones(200), folds) == min(STRENGTHS)


def test_a_margin_out_of_fold_does_not_know_its_own_fold() -> None:
    differences = np.array([[1.0, 0.0]] * 4 + [[0.0, 1.0]])
    margins = out_of_fold(differences, np.ones(5), np.array([0, 0, 1, 1, 2]), 0.1)
    assert margins[4] == 0.0
    assert (margins[:4] > 0).all()


def test_scores_by_hand_stay_between_those_of_training() -> None:
    head = Head(np.array([1.0, -2.0], np.float32), 0.5, -2.0, 2.0)
    features = np.array([[1.0, 0.5], [9.0, 0.0], [-9.0, 0.0]], np.float32)
    assert head.scores(features) == [-0.5, 2.0, -2.0]  # 1 − 1 − 0.5; 8.5 and −9.5 are cut off
    assert head.least == -3.0
    assert head.scores(features[:0]) == []
