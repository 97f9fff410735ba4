"""Turns pairs into a memory-mapped token cache with the base model's tokenizer and chat template.

reads:  data/pairs/, data/base/ (its tokenizer)
writes: data/tokens/ (a cache for train and test, prompts.jsonl, dropped.jsonl, template.json, metrics.json)
params: `encode` in params.yaml
run as: python -m tasks.encode
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tasks.core import paths
from tasks.core.base_model import BaseModel
from tasks.core.errors import ArtifactError, DataError
from tasks.core.files import atomic_folder, digest_of, pretty_json, read_json, verify_manifest, write_text
from tasks.core.log import get_logger, progress
from tasks.core.stage import door, note
from tasks.pairs.cache import TokenWriter
from tasks.pairs.encoding import BATCH, EncodeConfig, EncodedPair, PairEncoder, in_batches, to_tokens
from tasks.pairs.prompts import PromptWriter
from tasks.pairs.schema import Pair
from tasks.pairs.store import count_pairs, stored_pairs
from tasks.pairs.tally import Tally

_log = get_logger(__name__)


def run(pairs: Path, base: Path, out: Path, config: EncodeConfig) -> dict[str, Any]:
    """Encode both splits of ``pairs`` with the tokenizer of ``base`` into ``out`` and return the metrics.

    Raises:
        ArtifactError: ``pairs`` or ``base`` is missing or damaged.
        ConfigError: The chat template cannot be used with this tokenizer and these pairs.
        DataError: No pair of a split is left.
    """
    pinned = BaseModel.open(base)
    inputs = {"pairs": digest_of(verify_manifest(pairs, "ingest")["files"]), "base": pinned.digest}
    tokenizer = _load_tokenizer(pinned)
    encoder = PairEncoder(tokenizer, config, _generation_eos(pinned))
    began = time.monotonic()
    with atomic_folder(out, {"stage": "encode", "inputs": inputs}) as draft:
        metrics = _encode_splits(pairs, draft, encoder)
        write_text(draft / "template.json", pretty_json(_describe(encoder)))
        write_text(draft / "metrics.json", pretty_json(metrics))
    tokens = metrics["train"]["tokens"] + metrics["test"]["tokens"]
    note(tokens=tokens, tokens_per_second=round(tokens / (time.monotonic() - began)))
    _warn_of_length(metrics, tokenizer.model_max_length)
    return metrics


def _load_tokenizer(base: BaseModel) -> Any:
    try:
        return base.load_tokenizer()
    except (OSError, ValueError) as error:
        told = str(error).strip().splitlines()[0]
        raise ArtifactError(
            f"the base model {base.source} has no tokenizer that loads ({told})", "add it there"
        ) from None


def _generation_eos(base: BaseModel) -> list[int]:
    """Return the ids at which the base's generation config stops; none if it has no such file."""
    path: str | Path | None = Path(base.location) / "generation_config.json"
    if base.kind == "hub":
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(base.location, "generation_config.json", revision=base.revision)
        path = cached if isinstance(cached, str) else None
    if path is None or not Path(path).is_file():
        return []
    found = read_json(Path(path)).get("eos_token_id")
    return found if isinstance(found, list) else [] if found is None else [found]


def _encode_splits(pairs: Path, draft: Path, encoder: PairEncoder) -> dict[str, Any]:
    """Write both splits of the cache, the held-out prompts and the list of what was dropped."""
    metrics: dict[str, Any] = {}
    with (
        (draft / "dropped.jsonl").open("w", encoding="utf-8", newline="\n") as dropped,
        PromptWriter(draft / "prompts.jsonl") as prompts,
    ):
        for split in ("train", "test"):
            metrics[split] = _encode_split(pairs, draft, split, encoder, dropped, prompts)
        metrics["prompts"] = len(prompts)
    return metrics


def _encode_split(
    pairs: Path, draft: Path, split: str, encoder: PairEncoder, dropped: IO[str], prompts: PromptWriter
) -> dict[str, Any]:
    source = pairs / f"{split}.parquet"
    tally = Tally()
    with TokenWriter(draft, split) as writer:
        every = progress(_read(source), f"encoding {split}", total=count_pairs(source), unit=" pairs")
        for batch in in_batches(every, BATCH):
            encoded = encoder.encode(batch)
            tokens = to_tokens(encoded)
            writer.append(tokens)
            tally.add(encoded, tokens.lengths)
            for each in encoded:
                _list_dropped(dropped, split, each)
                if split == "test":
                    prompts.append(each)
    if not tally.kept():
        told = dict(tally.dropped.most_common(3))
        raise DataError(f"no pair of the {split} set is left; dropped: {told}", "see `encode` in params.yaml")
    _log.info("%s: %d pairs kept, dropped: %s", split, tally.kept(), dict(tally.dropped))
    return tally.metrics()


def _read(path: Path) -> Iterator[Pair]:
    for batch in stored_pairs(path):
        yield from batch


def _list_dropped(stream: IO[str], split: str, encoded: EncodedPair) -> None:
    if encoded.made is not None:
        return
    line = {"pair_id": encoded.pair.pair_id, "split": split, "reason": encoded.reason, "detail": encoded.detail[:200]}
    stream.write(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n")


def _describe(encoder: PairEncoder) -> dict[str, Any]:
    """Return which template made the texts, and where generation stops."""
    template = encoder.template
    return {
        "kind": template.kind if template else "none",
        "template": template.jinja if template else None,
        "eos_token_ids": list(encoder.eos_ids),
    }


def _warn_of_length(metrics: dict[str, Any], context: int) -> None:
    longest = max(metrics[split]["longest_branch_tokens"] for split in ("train", "test"))
    if longest > context:
        _log.warning(
            "the longest row has %d tokens, the model was made for %d: lower encode.max_*_tokens", longest, context
        )


def main() -> None:
    """Bind the standard paths and params.yaml."""
    with door("encode", EncodeConfig) as config:
        run(paths.PAIRS, paths.BASE, paths.TOKENS, config)


if __name__ == "__main__":
    main()
