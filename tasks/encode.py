"""Turns pairs into a memory-mapped token cache with the base model's tokenizer and chat template.

reads:  data/pairs/, data/base/ (its tokenizer)
writes: data/tokens/ (a cache for train and test, prompts.jsonl, dropped.jsonl, template.json, metrics.json)
params: `encode` in params.yaml; `runtime.row_store` for speed
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
from tasks.core.files import (
    atomic_folder,
    digest_of,
    pretty_json,
    read_json,
    read_manifest,
    verify_manifest,
    write_text,
)
from tasks.core.params import load_section
from tasks.core.runtime import RuntimeConfig
from tasks.launch.stage import door
from tasks.pairs.encoding.encoder import EncodeConfig, EncodedPair, EncoderFacts, PairEncoder, in_batches, to_tokens
from tasks.pairs.encoding.prompts import PromptWriter
from tasks.pairs.encoding.recall import LOOKUP, RecallingEncoder, encoding_identity
from tasks.pairs.encoding.tally import Tally
from tasks.pairs.record.pair import Pair
from tasks.pairs.record.parquet import count_pairs, stored_pairs
from tasks.pairs.tokens.token_cache import TokenWriter
from tasks.rowstore.row_store import RowStore
from tasks.telemetry.log import get_logger, progress
from tasks.telemetry.receipts import note

_log = get_logger(__name__)


def run(pairs: Path, base: Path, out: Path, config: EncodeConfig, rows: RowStore | None = None) -> dict[str, Any]:
    """Encode both splits of ``pairs`` with the tokenizer of ``base`` into ``out`` and return the metrics.

    Pairs that the store ``rows`` has are not tokenised again; the output is the same with it and without.

    Raises:
        ArtifactError: ``pairs`` or ``base`` is missing or damaged.
        ConfigError: The chat template cannot be used with this tokenizer and these pairs.
        DataError: No pair of a split is left.
    """
    pinned = BaseModel.open(base)
    inputs = {"pairs": digest_of(verify_manifest(pairs, "ingest")["files"]), "base": pinned.digest}
    eos_ids = _generation_eos(pinned)
    identity = encoding_identity(_tokenizer_files(base, pinned), eos_ids, config)
    encoder = RecallingEncoder(lambda: PairEncoder(_load_tokenizer(pinned), config, eos_ids), identity, rows)
    began = time.monotonic()
    with atomic_folder(out, {"stage": "encode", "inputs": inputs}) as draft:
        metrics = _encode_splits(pairs, draft, encoder)
        write_text(draft / "template.json", pretty_json(_describe(encoder.facts)))
        write_text(draft / "metrics.json", pretty_json(metrics))
        encoder.flush()
    tokens = metrics["train"]["tokens"] + metrics["test"]["tokens"]
    note(tokens=tokens, tokens_per_second=round(tokens / (time.monotonic() - began)))
    note(pairs_from_row_store=encoder.known, pairs_tokenised=encoder.new)
    _warn(metrics, encoder.facts)
    return metrics


def _tokenizer_files(folder: Path, base: BaseModel) -> dict[str, str]:
    """Return the hash of every file of the base that its tokenizer may be loaded from: of all but its weights."""
    files = read_manifest(folder, "base").get("model_files")
    if files is None:
        return {"base": base.digest}
    return {name: entry["sha256"] for name, entry in files.items() if ".safetensors" not in name}


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


def _encode_splits(pairs: Path, draft: Path, encoder: RecallingEncoder) -> dict[str, Any]:
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
    pairs: Path, draft: Path, split: str, encoder: RecallingEncoder, dropped: IO[str], prompts: PromptWriter
) -> dict[str, Any]:
    source = pairs / f"{split}.parquet"
    tally = Tally()
    with TokenWriter(draft, split) as writer:
        every = progress(_read(source), f"encoding {split}", total=count_pairs(source), unit=" pairs")
        for batch in in_batches(every, LOOKUP):
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


def _describe(facts: EncoderFacts) -> dict[str, Any]:
    """Return which template made the texts, and where generation stops."""
    return {"kind": facts.kind, "template": facts.template, "eos_token_ids": list(facts.eos_ids)}


def _warn(metrics: dict[str, Any], facts: EncoderFacts) -> None:
    facts.warn()
    longest = max(metrics[split]["longest_branch_tokens"] for split in ("train", "test"))
    if longest > facts.context:
        told = "the longest row has %d tokens, the model was made for %d: lower encode.max_*_tokens"
        _log.warning(told, longest, facts.context)


def main() -> None:
    """Bind the standard paths and params.yaml."""
    with door("encode", EncodeConfig) as config:
        location = load_section(paths.PARAMS, "runtime", RuntimeConfig).row_store
        rows = RowStore.open(location, "encode") if location else None
        run(paths.PAIRS, paths.BASE, paths.TOKENS, config, rows)


if __name__ == "__main__":
    main()
