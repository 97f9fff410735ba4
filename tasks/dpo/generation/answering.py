"""Answering the prompts: load the policy, share parts out over the ranks, gather the answers and describe them.

Finished parts are kept until all are there.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

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
from tasks.dpo.generation.batchwise import generate_batch
from tasks.dpo.generation.held_out import Row
from tasks.dpo.generation.kl_to_base import Key, LogRatio, log_ratios
from tasks.dpo.generation.questions import CHAMPION, Completion, Questions, Request, Side
from tasks.dpo.generation.refilling import answer_all, can_refill
from tasks.dpo.generation.stop_texts import StopTexts
from tasks.dpo.model import sharding
from tasks.dpo.model.base_loading import load_base
from tasks.dpo.model.distributed import turns_behind
from tasks.telemetry import log
from tasks.telemetry.receipts import note

BATCHES_OF_A_PART = 4  # a larger part fills its seats better; a smaller one is sooner finished and kept
_LIBRARIES = ("numpy", "peft", "tokenizers", "torch", "transformers")
T = TypeVar("T")


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
    parts: Sequence[Part],
    answers_of: Callable[[Part], list[Completion]],
    tokenizer: Any,
    work: Path,
    is_sharded: bool = False,
) -> list[Row]:
    """Answer this rank's share of the parts and return its rows; those of the policy have the tokens `drawn`, too.

    Args:
        parts: What all ranks answer together.
        answers_of: Answers a part.
        tokenizer: Turns tokens into text.
        work: Folder of finished parts; those that an earlier run finished are taken from there.
        is_sharded: The model is shared out over the ranks, which answer as many parts each.
    """
    parts_of_rank = list(enumerate(parts))[ranks.rank() :: ranks.world_size()]
    files = [work / f"part-{number:05d}.json" for number, _ in parts_of_rank]
    left = [(file, part) for file, (_, part) in zip(files, parts_of_rank, strict=True) if not file.is_file()]
    idle_parts = turns_behind(len(left)) if is_sharded else 0

    tokens, began = 0, time.monotonic()
    with log.bar("answering", total=len(left), unit="part") as bar:
        for file, part in left:
            answers = answers_of(part)
            tokens += sum(len(each.ids) for each in answers)
            write_text(file, canonical_json([_row(each, tokenizer) for each in answers]))
            bar.update()
    for _ in range(idle_parts):  # all-gather is collective: ranks with fewer parts run dummy ones
        answers_of(dataclasses.replace(parts[-1], requests=parts[-1].requests[-1:]))

    note(generated_tokens=tokens, generated_tokens_per_s=round(tokens / (time.monotonic() - began), 1))
    return [row for file in files for row in read_json(file)]


@dataclasses.dataclass(frozen=True)
class Part:
    """Requests that one side answers in one go, longest first."""

    side: Side
    requests: list[Request]


def plan_parts(questions: Questions, batches: int = BATCHES_OF_A_PART) -> list[Part]:
    """Cut the questions into parts of so many ``batches`` of one side; the sides of the same requests follow.

    Parts do not depend on the number of ranks, so neither do the answers.
    """
    planned = questions.batches()
    groups = [planned[first : first + batches] for first in range(0, len(planned), batches)]
    return [Part(side, [each for batch in group for each in batch]) for group in groups for side in questions.sides]


def answer_by_model(
    policy: Any, questions: Questions, tokenizer: Any, work: Path
) -> tuple[list[Row], dict[Key, LogRatio]]:
    """Answer this rank's share of the questions with the model ``policy``, all sides in one.

    Finished parts are kept in the folder ``work``; those that an earlier run finished are taken from there.

    Returns:
        This rank's rows, and the log-ratios of the policy's answers among them.
    """
    rows = _answer_by_model(policy, questions, tokenizer, work)
    began = time.monotonic()
    ratios = log_ratios(policy, questions, take_drawn(rows))
    note(kl_seconds=round(time.monotonic() - began, 3))
    return rows, ratios


def take_drawn(rows: list[Row]) -> dict[Key, list[int]]:
    """Take the tokens drawn for the policy's answers out of the rows, and return them by prompt and sample."""
    return {(row["prompt_id"], row["sample"]): row.pop("drawn") for row in rows if "drawn" in row}


def _answer_by_model(policy: Any, questions: Questions, tokenizer: Any, work: Path) -> list[Row]:
    is_sharded = sharding.is_sharded(policy)
    stops = StopTexts(tokenizer, questions.stop) if questions.stop else None
    sampling, budget = questions.sampling, questions.batch_tokens
    if not is_sharded and can_refill(policy.get_base_model()):
        return answer(
            plan_parts(questions),
            lambda part: answer_all(policy, part.requests, sampling, part.side, budget, stops),
            tokenizer,
            work,
        )
    return answer(
        plan_parts(questions, batches=1),
        lambda part: generate_batch(policy, part.requests, sampling, part.side, is_sharded, stops),
        tokenizer,
        work,
        is_sharded,
    )


def _row(answer: Completion, tokenizer: Any) -> Row:
    """Return an answer as a row of `responses.jsonl`; one of the policy with the tokens that were drawn for it."""
    text = tokenizer.decode(list(answer.ids), skip_special_tokens=True) if answer.text is None else answer.text
    return {
        "prompt_id": answer.prompt_id,
        "side": answer.side,
        "sample": answer.sample,
        "text": text,
        "n_tokens": len(answer.ids),
        "finish": answer.finish,
        **({"drawn": answer.drawn} if answer.side == "policy" else {}),
    }


def gather_on_main(items: list[T]) -> list[T] | None:
    """Return the items of all ranks on rank 0, None on the others; ranks need not share a disk for it."""
    if ranks.world_size() == 1:
        return items
    shards: list[Any] | None = [None] * ranks.world_size() if ranks.is_main() else None
    torch.distributed.gather_object(items, shards)
    return None if shards is None else [item for shard in shards for item in shard]


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
