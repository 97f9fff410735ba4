"""A Bradley-Terry head: which reply people prefer, as a linear function of the two replies' features.

P(chosen ≻ rejected) = σ(w·(x_chosen − x_rejected)), fitted by logistic regression on differences without an intercept,
so that swapping the two replies turns P into 1 − P (Bradley and Terry 1952). n is the number of pairs, d of features.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from tasks.core.errors import ArtifactError
from tasks.core.files import digest_of, sha256_bytes

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
STRENGTHS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)  # λ of the penalty λ/2·|w|² beside the mean loss, on standardised features
FOLDS = 5
DIGITS = 4  # of a score: differences of rounding, as between batches, decide nothing


class Line(NamedTuple):
    """A linear function of features: w·x − offset, with w float32 [d]."""

    weights: Floats
    offset: float

    def __call__(self, features: Floats) -> Array:
        """Return its value for features [n, d]: float64 [n]."""
        values: Array = features.astype(np.float64) @ self.weights.astype(np.float64) - self.offset
        return values


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """A fitted head.

    Attributes:
        reward: The score of a reply in log-odds; the mean over training replies is 0.
        non_answer: Above 0 for a reply that answers nothing.
        lowest: The lowest score of a training reply; a non-answer gets 1 less, and no other reply gets less.
        highest: The highest one; no reply gets more.
        facts: What it was fitted on, as plain values.
    """

    reward: Line
    non_answer: Line
    lowest: float
    highest: float
    facts: Mapping[str, Any]

    @property
    def least(self) -> float:
        """The score of a reply that answers nothing."""
        return self.lowest - 1

    @property
    def digest(self) -> str:
        """A digest of all of it."""
        lines = [[sha256_bytes(line.weights.tobytes()), line.offset] for line in (self.reward, self.non_answer)]
        return digest_of([lines, self.lowest, self.highest, dict(self.facts)])

    def scores(self, features: Floats) -> list[float]:
        """Return the score of each reply of features [n, d], rounded."""
        if not len(self.reward.weights):  # no training pair could be read: nothing is better than anything
            return [0.0] * len(features)
        clipped = np.clip(self.reward(features), self.lowest, self.highest)
        values = np.where(self.non_answer(features) > 0, self.least, clipped)
        return [round(float(value), DIGITS) for value in values]

    def save(self, path: Path) -> None:
        """Write it as a safetensors file; equal heads are equal bytes."""
        from safetensors.numpy import save_file

        numbers = [self.reward.offset, self.non_answer.offset, self.lowest, self.highest]
        about = json.dumps({"facts": dict(self.facts), "numbers": numbers}, sort_keys=True)
        save_file({"reward": self.reward.weights, "non_answer": self.non_answer.weights}, path, {"head": about})

    @classmethod
    def load(cls, path: Path) -> Head:
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: There is no such file, or it is no head.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "numpy") as file:
                about = json.loads(file.metadata()["head"])
                reward, non_answer, lowest, highest = about["numbers"]
                lines = Line(file.get_tensor("reward"), reward), Line(file.get_tensor("non_answer"), non_answer)
            return cls(*lines, lowest, highest, about["facts"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            what = f"{path} holds no fitted judge ({type(error).__name__})"
            raise ArtifactError(what, "run `dvc repro -f qualify`") from None


def fit(differences: Array, weights: Array, strength: float) -> Array:
    """Return w that minimises the weighted mean of log(1 + exp(−w·x)) plus strength/2·|w|²: float64 [d].

    Args:
        differences: float64 [n, d], features of the better reply less those of the other.
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


def out_of_fold(differences: Array, weights: Array, folds: npt.NDArray[np.int64], strength: float) -> Array:
    """Return the margin w·x of each pair under a head that was fitted without its fold: float64 [n]."""
    margins = np.zeros(len(differences))
    for fold in range(FOLDS):
        is_held = folds == fold
        if is_held.any() and not is_held.all():
            margins[is_held] = differences[is_held] @ fit(differences[~is_held], weights[~is_held], strength)
    return margins


def best_strength(differences: Array, weights: Array, folds: npt.NDArray[np.int64]) -> float:
    """Return the strength whose out-of-fold loss is the least."""
    losses = {
        strength: float(np.logaddexp(0, -out_of_fold(differences, weights, folds, strength)).mean())
        for strength in STRENGTHS
    }
    return min(losses, key=lambda strength: losses[strength])
