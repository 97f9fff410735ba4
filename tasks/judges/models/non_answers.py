"""Recognises replies that answer nothing by their words: a logistic regression on words and pairs of words.

It is fitted on the replies of training pairs against constructed ones. n is the number of replies.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, hstack

from tasks.judges.models.linear_head import Array, Floats, fit, out_of_fold

BUCKETS = 1 << 13  # that words and pairs of words are hashed into
STRENGTH = 1e-3  # λ of the penalty
MOST_FLAGGED = 0.01  # of the replies of training pairs, where their prompts are left out
_WORDS = re.compile(r"\w+|[^\w\s]")


class NonAnswers(NamedTuple):
    """A fitted line over the words of a reply: float32 [BUCKETS + 1], the last one for the intercept."""

    weights: Floats

    def flags(self, replies: Sequence[str]) -> list[bool]:
        """Tell of each reply whether it answers nothing: has no letter or digit, or is recognised."""
        if not replies:
            return []
        values = word_counts(replies) @ self.weights.astype(np.float64)
        has_letters = [any(character.isalnum() for character in reply) for reply in replies]
        return [not has or bool(value > 0) for has, value in zip(has_letters, values, strict=True)]


def word_counts(replies: Sequence[str]) -> csr_array:
    """Return which words and pairs of words each reply has, with rows of length 1, and a 1: [n, BUCKETS + 1]."""
    columns, lengths = [], []
    for reply in replies:
        words = ["<", *_WORDS.findall(reply.lower().replace("’", "'")), ">"]
        grams = [*words, *(f"{first} {second}" for first, second in itertools.pairwise(words))]
        held = sorted({zlib.crc32(gram.encode()) % BUCKETS for gram in grams})
        columns += held
        lengths.append(len(held))
    values = np.repeat(1 / np.sqrt(lengths), lengths)
    shape = (len(replies), BUCKETS)
    counts = csr_array((values, np.array(columns, np.int64), np.concatenate([[0], np.cumsum(lengths)])), shape)
    return csr_array(hstack([counts, np.ones((len(replies), 1))]))


def fit_non_answers(
    replies: Sequence[str], folds: npt.NDArray[np.int64], constructed: Sequence[str], other_folds: npt.NDArray[np.int64]
) -> tuple[NonAnswers, npt.NDArray[np.bool_]]:
    """Fit the line; both sides count alike, and at most :data:`MOST_FLAGGED` of the real replies are flagged.

    Args:
        replies: Of training pairs.
        folds: int64 [n], the folds of their prompts.
        constructed: Replies that answer nothing.
        other_folds: Their folds.

    Returns:
        The line, and which replies are flagged by one that was fitted without their fold, real ones first: bool.
    """
    count, others = len(replies), len(constructed)
    signs: Array = np.repeat([-1.0, 1.0], [count, others])
    signed = csr_array(word_counts([*replies, *constructed]).multiply(signs[:, None]))
    weights = np.repeat([1 / count, 1 / others], [count, others])

    margins = signs * out_of_fold(signed, weights, np.concatenate([folds, other_folds]), STRENGTH)
    threshold = max(0.0, float(np.quantile(margins[:count], 1 - MOST_FLAGGED)))
    line = fit(signed, weights, STRENGTH)
    line[-1] -= threshold
    return NonAnswers(line.astype(np.float32)), margins > threshold
