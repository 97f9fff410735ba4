"""All batches answered by all sides, shared out over the ranks; finished batches are kept until all are there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tasks.core import ranks
from tasks.core.files import canonical_json, code_digest, digest_of, read_json, write_text
from tasks.core.versions import versions
from tasks.dpo.generation.held_out import Row
from tasks.dpo.generation.sampling import Completion, Request, Sampling, Side, generate_batch
from tasks.dpo.model import sharding
from tasks.telemetry import log
from tasks.telemetry.receipts import note

_LIBRARIES = ("numpy", "peft", "tokenizers", "torch", "transformers")


def work_name(*inputs: Any) -> str:
    """Return a name for unfinished work: a hash of ``inputs``, the generating code and the libraries it uses."""
    return digest_of([*inputs, code_digest(Path(__file__).parent), versions(_LIBRARIES)])[:16]


def requests_for(prompts: list[Row], samples: int) -> list[Request]:
    """Return the answers to sample: ``samples`` for each prompt."""
    return [Request(row["prompt_id"], sample, tuple(row["ids"])) for row in prompts for sample in range(samples)]


def answer(
    policy: Any, batches: list[list[Request]], draws: Sampling, sides: Sequence[Side], tokenizer: Any, work: Path
) -> list[Row]:
    """Answer this rank's share of the batches, each side in turn, and return its rows.

    Args:
        policy: All sides in one model.
        batches: What all ranks answer together.
        draws: How answers are drawn.
        sides: Who answers.
        tokenizer: Turns tokens into text.
        work: Folder of finished batches; those that an earlier run finished are taken from there.
    """
    own_batches = list(enumerate(batches))[ranks.rank() :: ranks.world_size()]
    files = [work / f"batch-{number:05d}.json" for number, _ in own_batches]
    left = [(file, batch) for file, (_, batch) in zip(files, own_batches, strict=True) if not file.is_file()]

    is_sharded = sharding.is_sharded(policy)
    idle_passes = _most_over_ranks(len(left)) - len(left) if is_sharded else 0

    tokens, began = 0, time.monotonic()
    with log.bar("answering", total=len(left), unit="batch") as bar:
        for file, batch in left:
            completions = [c for side in sides for c in generate_batch(policy, batch, draws, side, is_sharded)]
            tokens += sum(len(completion.ids) for completion in completions)
            write_text(file, canonical_json([_row(completion, tokenizer) for completion in completions]))
            bar.update()
    for side in list(sides) * idle_passes:  # all-gather is collective: ranks with fewer batches run dummy ones
        generate_batch(policy, batches[-1][-1:], draws, side, is_sharded)
    note(generated_tokens=tokens, generated_tokens_per_s=round(tokens / (time.monotonic() - began), 1))
    return [row for file in files for row in read_json(file)]


def gather_on_main(rows: list[Row]) -> list[Row] | None:
    """Return the rows of all ranks on rank 0, None on the others; ranks need not share a disk for it."""
    if ranks.world_size() == 1:
        return rows
    shards: list[Any] | None = [None] * ranks.world_size() if ranks.is_main() else None
    torch.distributed.gather_object(rows, shards)
    return None if shards is None else [row for shard in shards for row in shard]


def _most_over_ranks(count: int) -> int:
    """Return the largest ``count`` of all ranks."""
    counts: list[Any] = [None] * ranks.world_size()
    torch.distributed.all_gather_object(counts, count)
    return int(max(counts))


def _row(completion: Completion, tokenizer: Any) -> Row:
    return {
        "prompt_id": completion.prompt_id,
        "side": completion.side,
        "sample": completion.sample,
        "text": tokenizer.decode(list(completion.ids), skip_special_tokens=True),
        "n_tokens": len(completion.ids),
        "finish": completion.finish,
    }
