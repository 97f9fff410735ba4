"""Both splits of the pairs, encoded batch by batch into the token cache, with prompts.jsonl and dropped.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from tasks.core.background import ahead
from tasks.core.errors import DataError
from tasks.core.json_lines import json_line
from tasks.pairs.encoding.recall import RecallingEncoder
from tasks.pairs.encoding.rowcode import EncodedRows, unpack
from tasks.pairs.encoding.tally import Tally
from tasks.pairs.record.pair_columns import PairColumns, stored_columns
from tasks.pairs.record.parquet import count_pairs, from_record
from tasks.pairs.tokens.token_cache import TokenPairs, TokenWriter
from tasks.telemetry.log import bar, get_logger

_LINE = orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
_BUFFER = 1 << 20  # bytes of prompts.jsonl that are written at once
_log = get_logger(__name__)


def encode_splits(pairs: Path, folder: Path, encoder: RecallingEncoder) -> tuple[dict[str, Tally], int]:
    """Write into ``folder`` both splits of the cache, the held-out prompts and the list of what was dropped.

    Args:
        pairs: `data/pairs/`.
        folder: Where the files go.
        encoder: Makes rows of pairs.

    Returns:
        What became of each split, and the number of held-out prompts.

    Raises:
        DataError: No pair of a split is left.
    """
    tallies: dict[str, Tally] = {}
    prompt_ids: set[bytes] = set()  # that stand in prompts.jsonl
    with (
        (folder / "dropped.jsonl").open("w", encoding="utf-8", newline="\n") as dropped,
        (folder / "prompts.jsonl").open("wb", buffering=_BUFFER) as prompts,
    ):
        for split in ("train", "test"):
            tally = tallies[split] = Tally(unk_id=encoder.facts.unk_id)
            for columns, rows in _encode_split(pairs / f"{split}.parquet", folder, split, encoder, tally):
                for i, record in _records_of(columns, ~rows.is_kept):
                    each = unpack(from_record(record), rows.values(i))
                    tally.drop(each)
                    line = {"pair_id": each.pair.pair_id, "reason": each.reason, "detail": each.detail[:200]}
                    dropped.write(json_line({**line, "split": split}))
                if split == "test":
                    for i, record in _records_of(columns, _is_new(columns.prompt_ids, rows.is_kept, prompt_ids)):
                        prompts.write(orjson.dumps({**described(record), "ids": rows.prompt(i)}, option=_LINE))
            _check_left(split, tally)
    return tallies, len(prompt_ids)


def _encode_split(
    source: Path, folder: Path, split: str, encoder: RecallingEncoder, tally: Tally
) -> Iterator[tuple[PairColumns, EncodedRows]]:
    """Write one split of the cache, count its rows in ``tally``, and yield some of them at a time."""
    with (
        TokenWriter(folder, split, encoder.facts.vocabulary) as writer,
        bar(f"encoding {split}", count_pairs(source), unit=" pairs") as shown,
    ):
        for columns in ahead(stored_columns(source)):
            rows = encoder.encode(columns)
            tokens = to_tokens(columns, rows)
            writer.append(tokens)
            tally.add(rows, tokens, columns.is_text)
            yield columns, rows
            shown.update(len(columns))


def _records_of(columns: PairColumns, mask: npt.NDArray[np.bool_]) -> Iterable[tuple[int, dict[str, Any]]]:
    """Return the rows where ``mask`` is true, with their places."""
    places = np.flatnonzero(mask).tolist()
    return zip(places, columns.records(places), strict=True) if places else ()


def _is_new(
    prompt_ids: npt.NDArray[np.bytes_], is_kept: npt.NDArray[np.bool_], seen: set[bytes]
) -> npt.NDArray[np.bool_]:
    """Return which rows are the first that was kept of a prompt, bool [n], and add these prompts to ``seen``."""
    is_new = np.zeros(len(prompt_ids), bool)
    for i in np.flatnonzero(is_kept):
        if (prompt_id := prompt_ids[i]) not in seen:
            seen.add(prompt_id)
            is_new[i] = True
    return is_new


def to_tokens(columns: PairColumns, rows: EncodedRows) -> TokenPairs:
    """Return the tokens of the pairs that were kept."""
    kept = rows.is_kept
    ids, lengths = rows.tokens()
    names = (columns.pair_ids[kept], columns.prompt_ids[kept])
    return TokenPairs(ids, lengths, *names, columns.weights[kept], columns.margins[kept])


def _check_left(split: str, tally: Tally) -> None:
    """Refuse a split of which no pair is left.

    Raises:
        DataError: With the most frequent reasons and the first detail.
    """
    if not tally.kept():
        reasons = dict(tally.dropped.most_common(3))
        first = tally.first_detail[next(iter(reasons))] if reasons else "none"
        what = f"no pair of the {split} set is left; dropped: {reasons}; the first is {first}"
        raise DataError(what, "see `encode` in params.yaml")
    _log.info("%s: %d pairs kept, dropped: %s", split, tally.kept(), dict(tally.dropped))


def described(record: dict[str, Any]) -> dict[str, Any]:
    """Return a pair's prompt as people read it, with its two published replies."""
    prompt = orjson.loads(record["prompt"])  # a text, or messages
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    asked = [turn["content"] for turn in turns if turn["role"] == "user"] or [turns[-1]["content"]]
    return {
        "prompt_id": record["prompt_id"],
        "slice": record["slice"],
        "display": turns[0]["content"] if len(turns) == 1 else "\n\n".join(map(_spoken, turns)),
        "question": asked[-1],
        "gold_chosen": record["chosen"],
        "gold_rejected": record["rejected"],
    }


def _spoken(turn: dict[str, Any]) -> str:
    return f"{turn['role'].capitalize()}: {turn['content']}"
