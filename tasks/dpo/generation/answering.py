"""Answering the prompts: load the policy, share batches out over the ranks, gather the answers and describe them.

Finished batches are kept until all are there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel

from tasks.core import ranks
from tasks.core.base_model import BaseModel
from tasks.core.errors import ArtifactError
from tasks.core.files import canonical_json, code_digest, digest_of, read_json, write_text
from tasks.core.pinned_adapter import PinnedAdapter
from tasks.core.runtime import RuntimeConfig
from tasks.core.versions import versions
from tasks.dpo.generation.held_out import Row
from tasks.dpo.generation.sampling import CHAMPION, Request, Sampling, Side, generate_batch
from tasks.dpo.model import sharding
from tasks.dpo.model.base_loading import load_base
from tasks.telemetry import log
from tasks.telemetry.receipts import note

_LIBRARIES = ("numpy", "peft", "tokenizers", "torch", "transformers")


def work_name(*inputs: Any) -> str:
    """Return a name for unfinished work: a hash of ``inputs``, the generating code and the libraries it uses."""
    return digest_of([*inputs, code_digest(Path(__file__).parent), versions(_LIBRARIES)])[:16]


def load_policy(
    base: BaseModel, adapter: Path, champion: PinnedAdapter | None, accelerator: Accelerator, runtime: RuntimeConfig
) -> Any:
    """Load the base with the adapter in the folder ``adapter``, and the champion's under the name ``CHAMPION``.

    Raises:
        ArtifactError: An adapter does not fit the base, or a file is damaged.
    """
    is_sharded = sharding.is_wanted(runtime, accelerator)
    try:
        policy = PeftModel.from_pretrained(load_base(base, accelerator.device, is_sharded), str(adapter))
        if champion:
            policy.load_adapter(str(champion.folder), CHAMPION)
    except (ValueError, RuntimeError, KeyError, TypeError, OSError) as error:
        what = f"the adapter in {adapter} does not fit the base model ({error})"
        raise ArtifactError(what[:500], "train it on this base: `dvc repro train`") from None
    return sharding.place(policy.eval(), accelerator, runtime)


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
    batches_of_rank = list(enumerate(batches))[ranks.rank() :: ranks.world_size()]
    files = [work / f"batch-{number:05d}.json" for number, _ in batches_of_rank]
    left = [(file, batch) for file, (_, batch) in zip(files, batches_of_rank, strict=True) if not file.is_file()]

    is_sharded, idle_passes = sharding.is_sharded(policy), 0
    if is_sharded:
        counts: list[Any] = [None] * ranks.world_size()
        torch.distributed.all_gather_object(counts, len(left))
        idle_passes = max(counts) - len(left)

    tokens, began = 0, time.monotonic()
    with log.bar("answering", total=len(left), unit="batch") as bar:
        for file, batch in left:
            completions = [c for side in sides for c in generate_batch(policy, batch, draws, side, is_sharded)]
            rows = [
                {
                    "prompt_id": completion.prompt_id,
                    "side": completion.side,
                    "sample": completion.sample,
                    "text": tokenizer.decode(list(completion.ids), skip_special_tokens=True),
                    "n_tokens": len(completion.ids),
                    "finish": completion.finish,
                }
                for completion in completions
            ]
            tokens += sum(row["n_tokens"] for row in rows)
            write_text(file, canonical_json(rows))
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


def merge(rows: list[Row], prompts: list[Row], sides: Sequence[Side], samples: int) -> list[Row]:
    """Order answers by prompt, side and sample, and check that each is there exactly once.

    Raises:
        ArtifactError: An answer is missing, doubled or of no prompt.
    """
    wanted = [(row["prompt_id"], side, sample) for row in prompts for side in sides for sample in range(samples)]
    counts, once = Counter((row["prompt_id"], row["side"], row["sample"]) for row in rows), Counter(wanted)
    wrong = [key for key in counts | once if counts[key] != once[key]]
    if wrong:
        prompt_id, side, sample = min(wrong)
        raise ArtifactError(
            f"{len(wrong)} answers are missing, doubled or unasked for: prompt {prompt_id}, {side}, sample {sample}",
            "delete runs/respond and run `dvc repro respond`",
        )
    by_key = {(row["prompt_id"], row["side"], row["sample"]): row for row in rows}
    return [by_key[key] for key in wanted]


def describe(answers: list[Row], sides: Sequence[Side], prompts: int, samples: int) -> dict[str, Any]:
    """Return the stage's metrics: how much was answered, and what each side's answers are like."""
    return {
        "prompts": prompts,
        "samples": samples,
        "sides": {side: _describe_side([row for row in answers if row["side"] == side]) for side in sides},
    }


def _describe_side(answers: list[Row]) -> dict[str, float]:
    """Return a side's mean length in tokens, and its shares of empty, truncated and distinct answers."""
    count = len(answers)
    return {
        "tokens_mean": round(sum(row["n_tokens"] for row in answers) / count, 6),
        "empty": round(sum(not row["text"].strip() for row in answers) / count, 6),
        "truncated": round(sum(row["finish"] == "length" for row in answers) / count, 6),
        "distinct_ratio": round(len({row["text"] for row in answers}) / count, 6),
    }
