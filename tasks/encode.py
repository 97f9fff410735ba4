"""Turn pairs into a memory-mapped token cache with the base model's tokenizer and chat template.

reads:  data/pairs/, data/base/ (its tokenizer)
writes: data/tokens/ (a cache for train and test, prompts.jsonl, dropped.jsonl, template.json, metrics.json)
params: `encode` in params.yaml; `runtime.row_store` for speed
run as: python -m tasks.encode
        python -m tasks.encode --show N    prints N rows of data/tokens/ as text, and writes nothing
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from tasks.core import paths
from tasks.core.base_model import BaseModel
from tasks.core.errors import ConfigError
from tasks.core.files import atomic_folder, digest_of, kept_on_error, pretty_json, verify_manifest, write_text
from tasks.core.params import load_section
from tasks.core.runtime import RuntimeConfig
from tasks.launch.stage import door, look, option
from tasks.pairs.encoding.base_tokenizer import base_settings, generation_eos, tokenizer_hashes
from tasks.pairs.encoding.encoder import EncodeConfig, PairEncoder
from tasks.pairs.encoding.findings import check_dropped, warn_of_losses
from tasks.pairs.encoding.positions import Positions
from tasks.pairs.encoding.recall import RecallingEncoder, encoding_identity
from tasks.pairs.encoding.show_rows import show_rows
from tasks.pairs.encoding.token_splits import encode_splits
from tasks.rowstore.row_store import RowStore
from tasks.telemetry.log import get_logger
from tasks.telemetry.receipts import note

_log = get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class Folders:
    """What the stage reads and writes."""

    pairs: Path = paths.PAIRS
    base: Path = paths.BASE
    tokens: Path = paths.TOKENS


def run(
    folders: Folders, config: EncodeConfig, rows: RowStore | None = None, kept: Path | None = None
) -> dict[str, Any]:
    """Encode both splits of the pairs with the base's tokenizer and return the metrics.

    Pairs that the store ``rows`` has are not tokenised again; the output is the same with it and without. Where the
    data are refused, the list of dropped pairs stays in the folder ``kept``.

    Raises:
        ArtifactError: The pairs or the base are missing or damaged.
        ConfigError: The chat template cannot be used with this tokenizer and these pairs.
        DataError: No pair of a split is left, too many are dropped, or rows exceed the base's learned positions.
    """
    base = BaseModel.open(folders.base)
    files = verify_manifest(folders.pairs, "ingest")["files"]
    inputs = {"pairs": digest_of(files), "base": base.digest}
    eos_ids = generation_eos(base)
    positions = Positions.of(base_settings(base, "config.json"))
    identity = encoding_identity(tokenizer_hashes(folders.base, base), eos_ids, config)
    encoder = RecallingEncoder(lambda: PairEncoder(base.load_tokenizer(), config, eos_ids), identity, rows)

    began = time.monotonic()
    about = {"stage": "encode", "inputs": inputs}
    with atomic_folder(folders.tokens, about) as draft, kept_on_error(draft / "dropped.jsonl", kept):
        digests = {name: entry["sha256"] for name, entry in files.items()}
        tallies, prompts = encode_splits(folders.pairs, draft, encoder, digests)
        check_dropped(tallies, config.max_dropped_share)
        longest = max(tally.longest() for tally in tallies.values())
        if positions:
            positions.check(sum(tally.longer_than(positions.most) for tally in tallies.values()), longest)

        facts = encoder.facts
        metrics: dict[str, Any] = {**{split: tally.metrics() for split, tally in tallies.items()}, "prompts": prompts}
        template = {"kind": facts.kind, "template": facts.template, "eos_token_ids": list(facts.eos_ids)}
        write_text(draft / "template.json", pretty_json(template))
        write_text(draft / "metrics.json", pretty_json(metrics))
        encoder.flush()

    tokens = metrics["train"]["tokens"] + metrics["test"]["tokens"]
    note(tokens=tokens, tokens_per_second=round(tokens / (time.monotonic() - began)))
    note(pairs_from_row_store=encoder.known, pairs_tokenised=encoder.new)

    facts.warn()
    warn_of_losses(tallies, facts, config.text_as)
    if longest > facts.context and not (positions and longest > positions.most):  # else it was warned of
        message = "the longest row has %d tokens, the model was made for %d: lower encode.max_*_tokens"
        _log.warning(message, longest, facts.context)
    return metrics


def show(folders: Folders, count: str) -> None:
    """Print the first rows of the token cache as text, in colour on a terminal.

    Raises:
        ConfigError: ``count`` is no whole number above 0.
        ArtifactError: The tokens or the base are missing or damaged.
    """
    if not count.isdecimal() or int(count) < 1:
        raise ConfigError(f"`--show {count}` is no number of rows", "write a whole number above 0, such as `--show 3`")
    tokenizer = BaseModel.open(folders.base).load_tokenizer()
    for line in show_rows(folders.tokens, tokenizer, int(count), sys.stdout.isatty()):
        print(line)


def main() -> None:
    """Bind the standard paths and params.yaml."""
    if count := option("encode", "--show"):
        with look("encode"):
            show(Folders(), count)
        return
    with door("encode", EncodeConfig) as config:
        location = load_section(paths.PARAMS, "runtime", RuntimeConfig).row_store
        rows = RowStore.open(location, "encode") if location else None
        run(Folders(), config, rows, kept=paths.RUNS / "encode")


if __name__ == "__main__":
    main()
