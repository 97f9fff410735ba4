"""A Bradley-Terry head: which reply people prefer, as a linear function of the two replies' features.

P(chosen ≻ rejected) = σ(w·(x_chosen − x_rejected)), fitted by logistic regression on differences without an intercept,
so that swapping the two replies turns P into 1 − P (Bradley and Terry 1952). n is the number of pairs, d of features.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Matrix = Any  # float64 [n, d], dense or of scipy.sparse
STRENGTHS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)  # λ of the penalty λ/2·|w|² beside the mean loss, on standardised features
FOLDS = 5
DIGITS = 4  # of a score: differences of rounding, as between batches, decide nothing


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """A fitted head.

    Attributes:
        weights: float32 [d], of features as they are.
        offset: What is taken from w·x, so that the mean score of training replies is 0.
        lowest: The lowest score of a training reply; no reply that is read gets less.
        highest: The highest one; no reply gets more.
    """

    weights: Floats
    offset: float
    lowest: float
    highest: float

    @property
    def least(self) -> float:
        """The score of a reply that answers nothing."""
        return round(self.lowest - 1, DIGITS)

    def scores(self, features: Floats) -> list[float]:
        """Return the score of each reply of features [n, d] in log-odds, rounded."""
        if not len(features) or not len(self.weights):  # no pair could be read: nothing is better than anything
            return [0.0] * len(features)
        raw = features.astype(np.float64) @ self.weights.astype(np.float64) - self.offset
        return [round(float(value), DIGITS) for value in np.clip(raw, self.lowest, self.highest)]


def fit(differences: Matrix, weights: Array, strength: float) -> Array:
    """Return w that minimises the weighted mean of log(1 + exp(−w·x)) plus strength/2·|w|²: float64 [d].

    Args:
        differences: [n, d], features of the better reply less those of the other.
        weights: float64 [n], how much each pair counts.
        strength: λ of the penalty.
    """
    share = weights / weights.sum()

    def loss(w: Array) -> tuple[float, Array]:
        margins = differences @ w
        pull = differences.T @ (share * expit(-margins))
        return float(share @ np.logaddexp(0, -margins) + strength / 2 * w @ w), strength * w - pull

    best: Array = minimize(loss, np.zeros(differences.shape[1]), jac=True, method="L-BFGS-B").x
    return best


def out_of_fold(differences: Matrix, weights: Array, folds: npt.NDArray[np.int64], strength: float) -> Array:
    """Return the margin w·x of each pair under a head that was fitted without its fold: float64 [n]."""
    margins = np.zeros(len(folds))
    for fold in range(FOLDS):
        is_held = folds == fold
        if is_held.any() and not is_held.all():
            margins[is_held] = differences[is_held] @ fit(differences[~is_held], weights[~is_held], strength)
    return margins


def best_strength(differences: Matrix, weights: Array, folds: npt.NDArray[np.int64]) -> float:
    """Return the strength whose out-of-fold loss is the least."""
    losses = {
        strength: float(np.logaddexp(0, -out_of_fold(differences, weights, folds, strength)).mean())
        for strength in STRENGTHS
    }
    return min(losses, key=lambda strength: losses[strength])
