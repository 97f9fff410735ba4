"""Both splits of the pairs, encoded batch by batch into the token cache, with prompts.jsonl and dropped.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from tasks.core.background import ahead
from tasks.core.errors import ArtifactError, DataError
from tasks.core.json_lines import json_line
from tasks.pairs.encoding.encoded_block import EncodedBlock
from tasks.pairs.encoding.recall import RecallingEncoder
from tasks.pairs.encoding.rowcode import EncodedRows, unpack
from tasks.pairs.encoding.tally import Tally
from tasks.pairs.record.pair_columns import PairColumns, stored_row_groups
from tasks.pairs.record.parquet import count_pairs, from_record
from tasks.pairs.tokens.token_cache import TokenPairs, TokenWriter
from tasks.telemetry.log import bar, get_logger

_LINE = orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
_BUFFER = 1 << 20  # bytes of prompts.jsonl that are written at once
_log = get_logger(__name__)


def encode_splits(
    pairs: Path, folder: Path, encoder: RecallingEncoder, digests: Mapping[str, str]
) -> tuple[dict[str, Tally], int]:
    """Write into ``folder`` both splits of the cache, the held-out prompts and the list of what was dropped.

    Args:
        pairs: `data/pairs/`.
        folder: Where the files go.
        encoder: Makes rows of pairs.
        digests: The SHA-256 of each file of the pairs, by its name there.

    Returns:
        What became of each split, and the number of held-out prompts.

    Raises:
        ArtifactError: A file of pairs is damaged, or is none of ``digests``.
        DataError: No pair of a split is left.
    """
    tallies: dict[str, Tally] = {}
    prompt_ids: set[bytes] = set()  # that stand in prompts.jsonl
    with (
        (folder / "dropped.jsonl").open("wb") as dropped,
        (folder / "prompts.jsonl").open("wb", buffering=_BUFFER) as prompts,
    ):
        for split in ("train", "test"):
            tally = tallies[split] = Tally()
            for block in _encode_split(pairs, folder, split, encoder, digests):
                tally.merge(block.tally)
                dropped.write(block.dropped)
                for prompt_id, line in zip(block.prompts.tolist(), block.lines, strict=True):
                    if prompt_id not in prompt_ids:
                        prompt_ids.add(prompt_id)
                        prompts.write(line)
            _check_left(split, tally)
    encoder.blocks.remove_unused()
    return tallies, len(prompt_ids)


def _encode_split(
    pairs: Path, folder: Path, split: str, encoder: RecallingEncoder, digests: Mapping[str, str]
) -> Iterator[EncodedBlock]:
    """Write one split of the cache, and yield its blocks; known ones are read, and others kept."""
    source = pairs / f"{split}.parquet"

    def read() -> Iterator[tuple[str, EncodedBlock | PairColumns]]:
        for groups in stored_row_groups(source):
            name = groups.path.relative_to(pairs).as_posix()
            if name not in digests:
                raise ArtifactError(f"{groups.path} is not in the manifest of {pairs}", "remove it")
            key = encoder.block_key(split, digests[name], groups.first, groups.end)
            yield key, encoder.blocks.take(key) or groups.columns()

    with (
        TokenWriter(folder, split, encoder.facts.vocabulary) as writer,
        bar(f"encoding {split}", count_pairs(source), unit=" pairs") as shown,
    ):
        for key, known in ahead(read()):
            if isinstance(known, EncodedBlock):
                block = known
                encoder.known += block.rows
            else:
                block = _encode_block(known, split, encoder)
                encoder.blocks.keep(key, block)
            writer.append(block.tokens)
            yield block
            shown.update(block.rows)


def _encode_block(columns: PairColumns, split: str, encoder: RecallingEncoder) -> EncodedBlock:
    """Encode some rows."""
    rows = encoder.encode(columns)
    tokens = to_tokens(columns, rows)
    tally = Tally(unk_id=encoder.facts.unk_id)
    tally.add(rows, tokens, columns.is_text)

    dropped: list[str] = []
    for i, record in _records_of(columns, ~rows.is_kept):
        each = unpack(from_record(record), rows.values(i))
        tally.drop(each)
        line = {"pair_id": each.pair.pair_id, "reason": each.reason, "detail": each.detail[:200]}
        dropped.append(json_line({**line, "split": split}))

    is_asked = _is_first(columns.prompt_ids, rows.is_kept if split == "test" else np.zeros(len(columns), bool))
    asked = _records_of(columns, is_asked)
    lines = [orjson.dumps({**described(record), "ids": rows.prompt(i)}, option=_LINE) for i, record in asked]
    return EncodedBlock(len(columns), tokens, tally, "".join(dropped).encode(), columns.prompt_ids[is_asked], lines)


def _records_of(columns: PairColumns, mask: npt.NDArray[np.bool_]) -> Iterable[tuple[int, dict[str, Any]]]:
    """Return the rows where ``mask`` is true, with their places."""
    places = np.flatnonzero(mask).tolist()
    return zip(places, columns.records(places), strict=True) if places else ()


def _is_first(prompt_ids: npt.NDArray[np.bytes_], is_wanted: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which rows are the first that is wanted of a prompt, bool [n]."""
    wanted = np.flatnonzero(is_wanted)
    is_first = np.zeros(len(prompt_ids), bool)
    is_first[wanted[np.unique(prompt_ids[wanted], return_index=True)[1]]] = True
    return is_first


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
