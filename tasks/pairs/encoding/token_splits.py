"""Both splits of the pairs, encoded batch by batch into the token cache."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from tasks.core.errors import DataError
from tasks.core.json_lines import json_line
from tasks.pairs.encoding.encoder import EncodedPair, in_batches, to_tokens
from tasks.pairs.encoding.prompts import PromptWriter
from tasks.pairs.encoding.recall import LOOKUP, RecallingEncoder
from tasks.pairs.encoding.tally import Tally
from tasks.pairs.record.parquet import count_pairs, stored_pairs
from tasks.pairs.tokens.token_cache import TokenWriter
from tasks.telemetry.log import bar, get_logger

_log = get_logger(__name__)


def encode_splits(pairs: Path, folder: Path, encoder: RecallingEncoder) -> dict[str, Any]:
    """Write into ``folder`` both splits of the cache, the held-out prompts and the list of what was dropped.

    Args:
        pairs: `data/pairs/`.
        folder: Where the files go.
        encoder: Makes rows of pairs.

    Returns:
        The metrics of each split, and the number of held-out prompts.

    Raises:
        DataError: No pair of a split is left.
    """
    metrics: dict[str, Any] = {}
    with (
        (folder / "dropped.jsonl").open("w", encoding="utf-8", newline="\n") as dropped,
        PromptWriter(folder / "prompts.jsonl") as prompts,
    ):
        for split in ("train", "test"):
            metrics[split] = _encode_split(pairs, folder, split, encoder, dropped, prompts)
        metrics["prompts"] = len(prompts)
    return metrics


def _encode_split(
    pairs: Path, folder: Path, split: str, encoder: RecallingEncoder, dropped: IO[str], prompts: PromptWriter
) -> dict[str, Any]:
    source, tally = pairs / f"{split}.parquet", Tally()
    every_pair = (pair for batch in stored_pairs(source) for pair in batch)
    with TokenWriter(folder, split) as writer, bar(f"encoding {split}", count_pairs(source), unit=" pairs") as shown:
        for batch in in_batches(every_pair, LOOKUP):
            encoded = encoder.encode(batch)
            tokens = to_tokens(encoded)
            writer.append(tokens)
            tally.add(encoded, tokens.lengths)
            for each in encoded:
                _list_dropped(dropped, split, each)
                if split == "test":
                    prompts.append(each)
            shown.update(len(batch))

    if not tally.kept():
        reasons = dict(tally.dropped.most_common(3))
        raise DataError(f"no pair of the {split} set is left; dropped: {reasons}", "see `encode` in params.yaml")
    _log.info("%s: %d pairs kept, dropped: %s", split, tally.kept(), dict(tally.dropped))
    return tally.metrics()


def _list_dropped(stream: IO[str], split: str, encoded: EncodedPair) -> None:
    if encoded.made is not None:
        return
    line = {"pair_id": encoded.pair.pair_id, "split": split, "reason": encoded.reason, "detail": encoded.detail[:200]}
    stream.write(json_line(line))
