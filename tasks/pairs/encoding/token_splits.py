"""Both splits of the pairs, encoded batch by batch into the token cache, with prompts.jsonl and dropped.jsonl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.core.errors import DataError
from tasks.core.json_lines import json_line
from tasks.pairs.encoding.encoder import EncodedPair, in_batches, to_tokens
from tasks.pairs.encoding.recall import LOOKUP, RecallingEncoder
from tasks.pairs.encoding.tally import Tally
from tasks.pairs.record.pair import Pair, Prompt
from tasks.pairs.record.parquet import count_pairs, stored_pairs
from tasks.pairs.tokens.token_cache import TokenWriter
from tasks.telemetry.log import bar, get_logger

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
    prompt_ids: set[str] = set()  # that stand in prompts.jsonl
    with (
        (folder / "dropped.jsonl").open("w", encoding="utf-8", newline="\n") as dropped,
        (folder / "prompts.jsonl").open("w", encoding="utf-8", newline="\n") as prompts,
    ):
        for split in ("train", "test"):
            tally = tallies[split] = Tally(unk_id=encoder.facts.unk_id)
            for each in _encode_split(pairs / f"{split}.parquet", folder, split, encoder, tally):
                pair = each.pair
                if each.made is None:
                    line = {"pair_id": pair.pair_id, "split": split, "reason": each.reason, "detail": each.detail[:200]}
                    dropped.write(json_line(line))
                elif split == "test" and pair.prompt_id not in prompt_ids:
                    prompt_ids.add(pair.prompt_id)
                    prompts.write(json_line({**_described(pair), "ids": each.prompt.tolist()}))
    return tallies, len(prompt_ids)


def _encode_split(
    source: Path, folder: Path, split: str, encoder: RecallingEncoder, tally: Tally
) -> Iterator[EncodedPair]:
    """Write one split of the cache, count its pairs in ``tally``, and yield what became of each."""
    every_pair = (pair for batch in stored_pairs(source) for pair in batch)
    with (
        TokenWriter(folder, split, encoder.facts.vocabulary) as writer,
        bar(f"encoding {split}", count_pairs(source), unit=" pairs") as shown,
    ):
        for batch in in_batches(every_pair, LOOKUP):
            encoded = encoder.encode(batch)
            tokens = to_tokens(encoded)
            writer.append(tokens)
            tally.add(encoded, tokens.lengths)
            yield from encoded
            shown.update(len(batch))

    if not tally.kept():
        reasons = dict(tally.dropped.most_common(3))
        first = tally.first_detail[next(iter(reasons))] if reasons else "none"
        what = f"no pair of the {split} set is left; dropped: {reasons}; the first is {first}"
        raise DataError(what, "see `encode` in params.yaml")
    _log.info("%s: %d pairs kept, dropped: %s", split, tally.kept(), dict(tally.dropped))


def _described(pair: Pair) -> dict[str, Any]:
    """Return a pair's prompt as people read it, with its two published replies."""
    return {
        "prompt_id": pair.prompt_id,
        "slice": pair.slice,
        "display": _display(pair.prompt),
        "question": _question(pair.prompt),
        "gold_chosen": pair.chosen,
        "gold_rejected": pair.rejected,
    }


def _display(prompt: Prompt) -> str:
    """Return the prompt as readable text; a lone question stands without its role."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0].content
    return "\n\n".join(f"{message.role.capitalize()}: {message.content}" for message in prompt)


def _question(prompt: Prompt) -> str:
    """Return the last thing that the user said."""
    if isinstance(prompt, str):
        return prompt
    asked = [message.content for message in prompt if message.role == "user"]
    return asked[-1] if asked else prompt[-1].content
