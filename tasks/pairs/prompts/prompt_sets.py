"""Sets of prompts of one's own: read from files like pairs without replies, and rendered like the held-out prompts."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.core.errors import DataError
from tasks.pairs.encoding.encoder import EncodedPair, PairEncoder
from tasks.pairs.encoding.token_splits import described
from tasks.pairs.ingestion.formats import read_rows
from tasks.pairs.ingestion.rows import parse_row
from tasks.pairs.raw.cells import is_blank, kind
from tasks.pairs.raw.raw_row import RawRow
from tasks.pairs.record.pair import SYSTEM_NAMES, Columns, Pair
from tasks.pairs.record.rejection import Rejection
from tasks.telemetry.log import get_logger

GOLD, SLICE = "gold", "slice"
_PROMPTS = ("prompt", "messages", "conversations", "question", "query", "instruction", "input")
_READ = (*_PROMPTS, *SYSTEM_NAMES, "history", "tools", "documents", GOLD, SLICE)
_ANSWERS = ("QUERYREPLYMARK one", "QUERYREPLYMARK two")  # stand for the replies of a pair: a prompt is read as a pair's
_BATCH = 512
_log = get_logger(__name__)


def read_prompt_sets(sets: Mapping[str, str], encoder: PairEncoder, held_out: Collection[str]) -> list[dict[str, Any]]:
    """Return the prompts of all sets in their order, as rows of `prompts.jsonl`.

    Beside what a held-out prompt has, a row has `set`, the set's name, and `prompt`, the prompt as JSON of a text or
    of messages. Its slice is the set's name, with a slash and the row's own slice behind it where it has one;
    `gold_chosen` is its reference answer, where it has one. A prompt that is held out, or that stands in an earlier
    row, is left out.

    Args:
        sets: The file of each set, by the set's name.
        encoder: Renders and tokenises prompts, as those of the pairs were.
        held_out: The ids of the held-out prompts that are answered.

    Raises:
        DataError: A file cannot be read, a row is not a prompt or has a key that nothing reads, the template refuses a
            prompt, or nothing is left of a set.
    """
    rows, seen = [], set(held_out)
    for name, path in sets.items():
        prompts, known, cut = [], 0, 0
        for pair, gold, encoded in _encoded(Path(path), encoder):
            if pair.prompt_id in seen:
                known += 1
                continue
            seen.add(pair.prompt_id)
            cut += bool(encoded.made and encoded.made.cut[0])
            prompts.append(_row(name, pair, gold, encoded))

        if not prompts:
            what = f"{path}: none of the {known} prompts of the set {name} is new"
            raise DataError(what, "add prompts, or take it out of `respond.prompt_sets`")
        if cut:
            _log.warning(
                "%s: %d prompts are longer than `encode.max_prompt_tokens`, and their beginning is cut", path, cut
            )
        _log.info("%s: %d prompts are answered as %s; %d were there before", path, len(prompts), name, known)
        rows += prompts
    return rows


def _encoded(path: Path, encoder: PairEncoder) -> Iterator[tuple[Pair, str | None, EncodedPair]]:
    """Yield the prompt of each row as that of a pair, the row's reference answer, and its tokens."""
    if not path.is_file():
        raise DataError(
            f"{path}, a file of `respond.prompt_sets`, is missing", "correct the path, or put the file there"
        )
    rows = read_rows(path, path.as_posix())
    while pairs := [_pair(row) for row in itertools.islice(rows, _BATCH)]:
        for (pair, gold), encoded in zip(pairs, encoder.encode([pair for pair, _ in pairs]), strict=True):
            if encoded.made is None:
                raise _refused(pair.source, encoded.detail or encoded.reason)
            yield pair, gold, encoded


def _pair(row: RawRow) -> tuple[Pair, str | None]:
    """Return the row's prompt as that of a pair, and its reference answer."""
    if row.fault or not isinstance(row.value, dict):
        raise _refused(row.where, row.fault or f"the row is {kind(row.value)}")
    value = {name: cell for name, cell in row.value.items() if not is_blank(cell)}
    if unread := sorted(set(value) - set(_READ)):
        raise _refused(row.where, f"nothing reads its key `{unread[0]}` (read are {', '.join(_READ)})")
    gold = value.pop(GOLD, None)
    if not isinstance(gold, str | None):
        raise _refused(row.where, f"`{GOLD}` is {kind(gold)}, not a text")

    if "messages" in value:
        if "conversations" in value:
            raise _refused(row.where, "`messages` and `conversations` both hold a prompt")
        value["conversations"] = value.pop("messages")
    chosen, rejected = _ANSWERS
    pair = parse_row(RawRow(row.where, {**value, "chosen": chosen, "rejected": rejected}), Columns())
    if isinstance(pair, Rejection):
        is_answered = pair.reason == "two_turns_of_one_role"  # the replies follow the prompt
        detail = (
            "turns of one role follow each other, or the last turn is the assistant's" if is_answered else pair.detail
        )
        raise _refused(row.where, detail)
    return pair, gold


def _refused(where: str, detail: str) -> DataError:
    return DataError(f"{where}: {detail}", "correct the row, or take it out of the file")


def _row(name: str, pair: Pair, gold: str | None, encoded: EncodedPair) -> dict[str, Any]:
    slice_ = f"{name}/{pair.slice}" if pair.slice else name
    record = {"prompt": pair.content_json, "prompt_id": pair.prompt_id, "slice": slice_}
    row = described({**record, "chosen": gold, "rejected": None})
    golds = {"gold_chosen": gold} if gold is not None else {}
    kept = {key: value for key, value in row.items() if not key.startswith("gold_")}
    return {**kept, **golds, "set": name, "prompt": pair.content_json, "ids": encoded.prompt.tolist()}
