"""Fits the head of the judge `own` on training pairs, and on games that constructed replies lose."""

from __future__ import annotations

import dataclasses
import heapq
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.core.files import sha256_bytes
from tasks.judges.models.constructed_replies import KINDS, MUST_LOSE, is_good
from tasks.judges.models.linear_head import FOLDS, Array, Head, best_strength, fit, out_of_fold
from tasks.judges.models.model_choices import ModelPlace, OwnJudge
from tasks.judges.models.own_reader import FEATURES, OwnReader
from tasks.judges.models.own_scorer import HEAD_FILE
from tasks.judges.models.row_cache import TokenText
from tasks.judges.protocol.conversations import rows_of
from tasks.pairs.tokens.token_cache import open_tokens
from tasks.telemetry.log import get_logger

MOST_CONSTRUCTED = 400  # games of each kind
FIRST_SHARE = 0.02  # how much the games of a kind count at first, as a share of the labelled pairs
MOST_DOUBLINGS = 4  # of that share, while a kind that must lose does not
LEAST_LOST = 0.97  # of the held-out games of such a kind
_log = get_logger(__name__)


class Game(NamedTuple):
    """Two replies to one prompt, as tokens and as text, and the fold of the prompt."""

    better: TokenText
    worse: TokenText
    text: str
    fold: int


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """The features of n games: float64 [n, d] of the better and of the worse replies, and int64 [n], their folds."""

    better: Array
    worse: Array
    folds: npt.NDArray[np.int64]


def fit_own(choice: OwnJudge, place: ModelPlace) -> Head:
    """Fit a head on training pairs and return it; the same pairs and base give the same head.

    Raises:
        ArtifactError: Pairs, tokens or base are missing or damaged.
    """
    reader = OwnReader(place)
    rows = drawn_pairs(place, choice.pairs)
    games = [game for row in rows if (game := _game(row, row["chosen"], row["rejected"], reader))]
    if left_out := len(rows) - len(games):
        _log.warning(
            "%d of %d training pairs have a reply that is blank or does not fit the base's positions; `own` leaves "
            "them out",
            *(left_out, len(rows)),
        )
    facts = {"base": reader.base.digest, "features": FEATURES, "pairs": len(games), "left_out": left_out}
    if not games:
        return Head(np.zeros(0, np.float32), 0.0, 0.0, 0.0, facts)

    labelled = _table(games, reader, "reading training pairs")
    by_kind = {kind: list(_constructed(kind, rows, reader)) for kind in KINDS}
    constructed = {kind: _table(made, reader, f"reading {kind}") for kind, made in by_kind.items() if made}
    head = fit_tables(labelled, constructed, facts)
    _log.info(
        "`own` is fitted on %d training pairs; it agrees with %.1f %% of those whose prompt it was not fitted on",
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


def _game(row: Mapping[str, Any], better: str, worse: str, reader: OwnReader) -> Game | None:
    """Return a game of two replies to a row's prompt; None where one of them cannot be read."""
    first, second = (reader.text(row["ids"], reply) for reply in (better, worse))
    if isinstance(first, str) or isinstance(second, str):
        return None
    return Game(first, second, better, _fold(row["prompt_id"]))


def _fold(prompt_id: str) -> int:
    return int(sha256_bytes(f"fold/{prompt_id}".encode())[:8], 16) % FOLDS


def _constructed(kind: str, rows: Sequence[Mapping[str, Any]], reader: OwnReader) -> Iterator[Game]:
    """Yield games of a good reply against a constructed one, one a prompt."""
    good = {row["prompt_id"]: row for row in rows if is_good(row["chosen"])}
    for prompt_id, row in sorted(good.items(), key=lambda item: sha256_bytes(f"{kind}/{item[0]}".encode()))[
        :MOST_CONSTRUCTED
    ]:
        draw = random.Random(f"{kind}/{prompt_id}")
        if game := _game(row, row["chosen"], KINDS[kind](row["chosen"], _fold(prompt_id), draw), reader):
            yield game


def _table(games: Sequence[Game], reader: OwnReader, what: str) -> Table:
    features = reader.features([text for game in games for text in (game.better, game.worse)], what).astype(np.float64)
    return Table(features[0::2], features[1::2], np.array([game.fold for game in games], np.int64))


def fit_tables(labelled: Table, constructed: Mapping[str, Table], facts: Mapping[str, Any]) -> Head:
    """Fit a head on labelled games, and on constructed ones, which count as little as makes them lose.

    Args:
        labelled: Games whose better reply a label names.
        constructed: Games of a good reply against a constructed one, by kind.
        facts: What to say of the head besides what is measured here.
    """
    replies = np.concatenate([labelled.better, labelled.worse])
    center, scale = replies.mean(axis=0), replies.std(axis=0)
    scale[scale < 1e-6] = 1.0
    tables, count = [labelled, *constructed.values()], len(labelled.folds)
    differences = np.concatenate([(table.better - table.worse) / scale for table in tables])
    folds = np.concatenate([table.folds for table in tables])

    def weights(shares: Mapping[str, float]) -> Array:
        sizes = [
            (1.0, count),
            *((shares[kind] * count / len(t.folds), len(t.folds)) for kind, t in constructed.items()),
        ]
        return np.concatenate([np.full(size, weight) for weight, size in sizes])

    shares = dict.fromkeys(constructed, FIRST_SHARE)
    strength = best_strength(differences, weights(shares), folds, count)
    for _ in range(MOST_DOUBLINGS + 1):
        margins = out_of_fold(differences, weights(shares), folds, strength)
        lost = _lost(margins[count:], constructed)
        weak = [kind for kind in MUST_LOSE if lost.get(kind, 1.0) < LEAST_LOST]
        last, shares = shares, shares | {kind: 2 * shares[kind] for kind in weak}
        if not weak:
            break

    vector = fit(differences, weights(last), strength) / scale
    scores = replies @ vector - center @ vector
    plain = out_of_fold(differences[:count], np.ones(count), folds[:count], strength)
    measured = {
        "strength": strength,
        "agreement_out_of_fold": _share(margins[:count]),
        "agreement_without_constructed": _share(plain),
        "constructed": {kind: {"counts": last[kind], "lost": lost[kind]} for kind in constructed},
    }
    bounds = round(float(scores.min()), 6), round(float(scores.max()), 6)
    return Head(vector.astype(np.float32), float(center @ vector), *bounds, {**facts, **measured})


def _lost(margins: Array, constructed: Mapping[str, Table]) -> dict[str, float]:
    """Return the share of each kind's games that it lost."""
    ends = np.cumsum([len(table.folds) for table in constructed.values()])
    parts = np.split(margins, ends[:-1]) if len(ends) else []
    return {kind: _share(part) for kind, part in zip(constructed, parts, strict=True)}


def _share(margins: Array) -> float:
    return round(float((margins > 0).mean()), 4)
