"""Fits the judge `own` on training pairs: its head, and its classifier of non-answers."""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.core.files import sha256_bytes
from tasks.judges.models.constructed_replies import KINDS
from tasks.judges.models.linear_head import FOLDS, Array, Head, best_strength, fit, out_of_fold
from tasks.judges.models.model_choices import ModelPlace, OwnJudge
from tasks.judges.models.non_answers import NonAnswers, fit_non_answers
from tasks.judges.models.own_judge_file import HEAD_FILE, OwnModel
from tasks.judges.models.own_reader import FEATURES, OwnReader
from tasks.judges.models.row_cache import TokenText
from tasks.judges.protocol.conversations import rows_of
from tasks.pairs.tokens.token_cache import open_tokens
from tasks.telemetry.log import get_logger

CONSTRUCTED = 400  # replies of each kind
_log = get_logger(__name__)


class TrainingPair(NamedTuple):
    """A training pair: its prompt's tokens and fold, and its two replies."""

    prompt: tuple[int, ...]
    fold: int
    chosen: str
    rejected: str


def write_head(choice: OwnJudge, place: ModelPlace) -> Mapping[str, Any]:
    """Fit the judge into the folder of `qualify`, and return what it learned from, as the judge's papers say it.

    Raises:
        ArtifactError: As :func:`fit_own`.
    """
    model = fit_own(choice, place)
    model.save(place.qualification / HEAD_FILE)
    return {"what": "training labels", **model.facts}


def fit_own(choice: OwnJudge, place: ModelPlace) -> OwnModel:
    """Fit the judge on training pairs and return it; the same pairs and base give the same one.

    Raises:
        ArtifactError: Pairs, tokens or base are missing or damaged.
    """
    reader, pairs = OwnReader(place), drawn_pairs(place, choice.pairs)
    texts = [(reader.text(pair.prompt, pair.chosen), reader.text(pair.prompt, pair.rejected)) for pair in pairs]
    is_read = [all(isinstance(text, TokenText) for text in both) for both in texts]
    if left_out := len(pairs) - sum(is_read):
        _log.warning(
            "`own` leaves out %d of %d training pairs: a reply is blank, or too long for the base's positions",
            *(left_out, len(pairs)),
        )

    non_answers, flagged = _fit_non_answers(pairs)
    readable = [text for both, is_one in zip(texts, is_read, strict=True) if is_one for text in both]
    features = reader.features([text for text in readable if isinstance(text, TokenText)], "reading training pairs")
    folds = np.array([pair.fold for pair, is_one in zip(pairs, is_read, strict=True) if is_one], np.int64)
    head, measured = fit_head(features.astype(np.float64), folds)
    facts = {"base": reader.base.digest, "features": FEATURES, "pairs": len(folds), "left_out": left_out}
    return OwnModel(head, non_answers, {**facts, **measured, "flagged": flagged})


def drawn_pairs(place: ModelPlace, most: int) -> list[TrainingPair]:
    """Return at most ``most`` training pairs that `encode` kept, those whose id hashes lowest.

    Raises:
        ArtifactError: A folder is missing or damaged.
    """
    tokens = open_tokens(place.tokens, "train", check_bytes=False)
    row_of = {pair_id.decode(): row for row, pair_id in enumerate(tokens.pair_ids.tolist())}
    columns = ["pair_id", "prompt_id", "chosen", "rejected"]
    kept = (row for row in rows_of(place.pairs / "train.parquet", columns) if row["pair_id"] in row_of)
    drawn = heapq.nsmallest(most, kept, key=lambda row: sha256_bytes(row["pair_id"].encode()))
    return [
        TrainingPair(
            tuple(tokens.row(row_of[row["pair_id"]]).prompt.tolist()),
            int(sha256_bytes(f"fold/{row['prompt_id']}".encode())[:8], 16) % FOLDS,
            row["chosen"],
            row["rejected"],
        )
        for row in drawn
    ]


def fit_head(features: Array, folds: npt.NDArray[np.int64]) -> tuple[Head, dict[str, Any]]:
    """Return a head and what was measured of it; one that prefers nothing where there is no pair.

    Args:
        features: float64 [2n, d], of the chosen reply of each pair at even places, and of the rejected one behind it.
        folds: int64 [n].
    """
    if not len(folds):
        return Head(np.zeros(0, np.float32), 0.0, 0.0, 0.0), {}
    center, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale < 1e-6] = 1.0
    differences, ones = (features[0::2] - features[1::2]) / scale, np.ones(len(folds))

    strength = best_strength(differences, ones, folds)
    agreement = float((out_of_fold(differences, ones, folds, strength) > 0).mean())
    weights = fit(differences, ones, strength) / scale
    scores = (features - center) @ weights
    bounds = round(float(scores.min()), 6), round(float(scores.max()), 6)
    head = Head(weights.astype(np.float32), float(center @ weights), *bounds)
    _log.info(
        "`own` is fitted on %d pairs, and agrees with %.1f %% of those left out in turn", len(folds), 100 * agreement
    )
    return head, {"strength": strength, "agreement_out_of_fold": round(agreement, 4)}


def _fit_non_answers(pairs: Sequence[TrainingPair]) -> tuple[NonAnswers, dict[str, float]]:
    """Return the classifier, and the shares of real replies and of each kind that it flags out of fold."""
    replies = [(reply, pair.fold) for pair in pairs for reply in (pair.chosen, pair.rejected)]
    made = [
        (kind, wording.reply(number % FOLDS, random.Random(f"{kind}/{number}")), number % FOLDS)
        for kind, wording in KINDS.items()
        for number in range(CONSTRUCTED)
    ]
    non_answers, is_flagged = fit_non_answers(
        [reply for reply, _ in replies],
        np.array([fold for _, fold in replies], np.int64),
        [reply for _, reply, _ in made],
        np.array([fold for *_, fold in made], np.int64),
    )
    kinds = np.array([*["training replies"] * len(replies), *(kind for kind, *_ in made)])
    return non_answers, {
        kind: round(float(is_flagged[kinds == kind].mean()), 4) for kind in ("training replies", *KINDS)
    }
