"""Fits the head of the judge `own` on training pairs, and its classifier of non-answers."""

from __future__ import annotations

import dataclasses
import heapq
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.core.files import sha256_bytes
from tasks.judges.models.constructed_replies import KINDS
from tasks.judges.models.linear_head import FOLDS, Array, Head, Line, best_strength, fit, out_of_fold
from tasks.judges.models.model_choices import ModelPlace, OwnJudge
from tasks.judges.models.own_reader import FEATURES, OwnReader
from tasks.judges.models.own_scorer import HEAD_FILE
from tasks.judges.models.row_cache import TokenText
from tasks.judges.protocol.conversations import rows_of
from tasks.pairs.tokens.token_cache import open_tokens
from tasks.telemetry.log import get_logger

MOST_CONSTRUCTED = 400  # replies of each kind
MOST_FLAGGED = 0.01  # of the replies of training pairs, taken for non-answers where their prompts are left out
FLAG_STRENGTH = 0.01  # λ of the classifier of non-answers
_log = get_logger(__name__)


class Game(NamedTuple):
    """Two replies to one prompt as tokens, and the prompt's fold."""

    better: TokenText
    worse: TokenText
    fold: int


@dataclasses.dataclass(frozen=True, eq=False)
class Replies:
    """The features of n replies, float64 [n, d], and int64 [n], the folds of their prompts."""

    features: Array
    folds: npt.NDArray[np.int64]


def fit_own(choice: OwnJudge, place: ModelPlace) -> Head:
    """Fit a head on training pairs and return it; the same pairs and base give the same head.

    Raises:
        ArtifactError: Pairs, tokens or base are missing or damaged.
    """
    reader = OwnReader(place)
    rows = drawn_pairs(place, choice.pairs)
    games = [game for row in rows if (game := _game(row, reader))]
    if left_out := len(rows) - len(games):
        _log.warning(
            "`own` leaves out %d of %d training pairs: a reply is blank, or too long for the base's positions",
            *(left_out, len(rows)),
        )
    facts = {"base": reader.base.digest, "features": FEATURES, "pairs": len(games), "left_out": left_out}
    if not games:
        nothing = Line(np.zeros(0, np.float32), 0.0)
        return Head(nothing, nothing, 0.0, 0.0, facts)

    replies = [(text, game.fold) for game in games for text in (game.better, game.worse)]
    made = {kind: list(islice(_constructed(kind, rows, reader), MOST_CONSTRUCTED)) for kind in KINDS}
    constructed = {kind: _read(texts, reader, f"reading: {kind}") for kind, texts in made.items() if texts}
    head = fit_replies(_read(replies, reader, "reading training pairs"), constructed, facts)
    _log.info(
        "`own` is fitted on %d training pairs; of pairs whose prompts it was not fitted on it agrees with %.1f %%",
        *(len(games), 100 * head.facts["agreement_out_of_fold"]),
    )
    return head


def write_head(choice: OwnJudge, place: ModelPlace) -> Mapping[str, Any]:
    """Fit a head into the folder of `qualify`, and return what it learned from, as the judge's papers say it.

    Raises:
        ArtifactError: As :func:`fit_own`.
    """
    head = fit_own(choice, place)
    head.save(place.qualification / HEAD_FILE)
    return {"what": "training labels", **head.facts}


def drawn_pairs(place: ModelPlace, most: int) -> list[dict[str, Any]]:
    """Return at most ``most`` training pairs that `encode` kept, those whose id hashes lowest.

    Each has `prompt_id`, `ids` (of its prompt), `chosen` and `rejected`.

    Raises:
        ArtifactError: A folder is missing or damaged.
    """
    tokens = open_tokens(place.tokens, "train", check_bytes=False)
    row_of = {pair_id.decode(): row for row, pair_id in enumerate(tokens.pair_ids.tolist())}
    columns = ["pair_id", "prompt_id", "chosen", "rejected"]
    kept = (row for row in rows_of(place.pairs / "train.parquet", columns) if row["pair_id"] in row_of)
    drawn = heapq.nsmallest(most, kept, key=lambda row: sha256_bytes(row["pair_id"].encode()))
    return [{**row, "ids": tokens.row(row_of[row["pair_id"]]).prompt.tolist()} for row in drawn]


def _game(row: Mapping[str, Any], reader: OwnReader) -> Game | None:
    """Return the two replies of a training pair; None where one of them cannot be read."""
    better, worse = (reader.text(row["ids"], row[name]) for name in ("chosen", "rejected"))
    if isinstance(better, str) or isinstance(worse, str):
        return None
    return Game(better, worse, _fold(row["prompt_id"]))


def _fold(prompt_id: str) -> int:
    return int(sha256_bytes(f"fold/{prompt_id}".encode())[:8], 16) % FOLDS


def _constructed(kind: str, rows: Sequence[Mapping[str, Any]], reader: OwnReader) -> Iterator[tuple[TokenText, int]]:
    """Yield constructed replies with their folds, one a prompt."""
    prompts = {row["prompt_id"]: row["ids"] for row in rows}
    for prompt_id in sorted(prompts, key=lambda prompt_id: sha256_bytes(f"{kind}/{prompt_id}".encode())):
        fold = _fold(prompt_id)
        text = reader.text(prompts[prompt_id], KINDS[kind].reply(fold, random.Random(f"{kind}/{prompt_id}")))
        if isinstance(text, TokenText):
            yield text, fold


def _read(texts: Sequence[tuple[TokenText, int]], reader: OwnReader, what: str) -> Replies:
    features = reader.features([text for text, _ in texts], what).astype(np.float64)
    return Replies(features, np.array([fold for _, fold in texts], np.int64))


def fit_replies(replies: Replies, constructed: Mapping[str, Replies], facts: Mapping[str, Any]) -> Head:
    """Fit the two lines of a head.

    Args:
        replies: Of training pairs: a better one at each even place, the worse one behind it.
        constructed: Replies that answer nothing, by kind.
        facts: What to say of the head besides what is measured here.
    """
    center, scale = replies.features.mean(axis=0), replies.features.std(axis=0)
    scale[scale < 1e-6] = 1.0
    differences, folds = (replies.features[0::2] - replies.features[1::2]) / scale, replies.folds[0::2]
    ones = np.ones(len(folds))
    strength = best_strength(differences, ones, folds)
    agrees = out_of_fold(differences, ones, folds, strength) > 0
    vector = fit(differences, ones, strength) / scale
    reward = Line(vector.astype(np.float32), float(center @ vector))
    scores = reward(replies.features.astype(np.float32))

    non_answer, flagged = _fit_non_answer(replies, constructed, center, scale)
    measured = {"strength": strength, "agreement_out_of_fold": round(float(agrees.mean()), 4), "flagged": flagged}
    bounds = round(float(scores.min()), 6), round(float(scores.max()), 6)
    return Head(reward, non_answer, *bounds, {**facts, **measured})


def _fit_non_answer(
    replies: Replies, constructed: Mapping[str, Replies], center: Array, scale: Array
) -> tuple[Line, dict[str, float]]:
    """Return the line that is above 0 for a non-answer, and the share of each kind that it flags out of fold.

    Both classes count alike. The line is moved until it flags at most :data:`MOST_FLAGGED` of the real replies.
    """
    parts = [replies, *constructed.values()]
    standard = (np.concatenate([part.features for part in parts]) - center) / scale
    folds = np.concatenate([part.folds for part in parts])
    count, others = len(replies.folds), len(folds) - len(replies.folds)
    signs = np.repeat([-1.0, 1.0], [count, others])[:, None]
    signed = signs * np.column_stack([standard, np.ones(len(folds))])
    weights = np.repeat([1 / count, 1 / max(1, others)], [count, others])

    margins = signs[:, 0] * out_of_fold(signed, weights, folds, FLAG_STRENGTH)
    threshold = max(0.0, float(np.quantile(margins[:count], 1 - MOST_FLAGGED)))
    whole = fit(signed, weights, FLAG_STRENGTH)
    vector, intercept = whole[:-1] / scale, whole[-1]
    line = Line(vector.astype(np.float32), float(center @ vector - intercept + threshold))

    ends = np.cumsum([len(part.folds) for part in parts])
    shares = [round(float((part > threshold).mean()), 4) for part in np.split(margins, ends[:-1])]
    return line, dict(zip(["training replies", *constructed], shares, strict=True))
