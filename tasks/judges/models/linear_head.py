"""A Bradley-Terry head: which reply people prefer, as a linear function of the two replies' features.

P(chosen ≻ rejected) = σ(w·(x_chosen − x_rejected)), fitted by logistic regression on differences without an intercept,
so that swapping the two replies turns P into 1 − P (Bradley and Terry 1952). n is the number of pairs, d of features.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from tasks.core.errors import ArtifactError
from tasks.core.files import digest_of, sha256_bytes

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01)  # λ of the penalty λ/2·|w|² beside the mean loss, on standardised features
FOLDS = 5
DIGITS = 4  # of a score: differences of rounding, as between batches, decide nothing


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """A fitted head.

    Attributes:
        weights: float32 [d], of features as they are.
        offset: What is taken from w·x, so that the mean score of training replies is 0.
        lowest: The lowest score of a training reply; the least that any reply gets.
        highest: The highest one; the most that any reply gets.
        facts: What it was fitted on, as plain values.
    """

    weights: Floats
    offset: float
    lowest: float
    highest: float
    facts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """A digest of all of it."""
        numbers = [self.offset, self.lowest, self.highest]
        return digest_of([sha256_bytes(self.weights.tobytes()), numbers, dict(self.facts)])

    def scores(self, features: Floats) -> list[float]:
        """Return the score of each reply of features [n, d], in log-odds, rounded."""
        if not len(self.weights):  # no training pair could be read: nothing is better than anything
            return [0.0] * len(features)
        raw = features.astype(np.float64) @ self.weights.astype(np.float64) - self.offset
        return [round(float(score), DIGITS) for score in np.clip(raw, self.lowest, self.highest)]

    def save(self, path: Path) -> None:
        """Write it as a safetensors file; equal heads are equal bytes."""
        from safetensors.numpy import save_file

        about = {"facts": dict(self.facts), "numbers": [self.offset, self.lowest, self.highest]}
        save_file({"weights": self.weights}, path, {"head": json.dumps(about, sort_keys=True)})

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
                offset, lowest, highest = about["numbers"]
                return cls(file.get_tensor("weights"), offset, lowest, highest, about["facts"])
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


def best_strength(differences: Array, weights: Array, folds: npt.NDArray[np.int64], counted: int) -> float:
    """Return the strength whose out-of-fold loss on the first ``counted`` pairs is the least."""
    losses = {
        strength: float(np.logaddexp(0, -out_of_fold(differences, weights, folds, strength)[:counted]).mean())
        for strength in STRENGTHS
    }
    return min(losses, key=lambda strength: losses[strength])
