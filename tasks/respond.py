"""Let the policy, the base and the champion answer the held-out prompts, under the same conditions.

The reference here is the bare base, whatever training went on from: all versions of one base, each trained from the
one before or not, are measured against the same opponent.

reads:  data/tokens/prompts.jsonl and template.json, data/base/, models/adapter/, and the champion that
        `respond.champion` names, from the registry
writes: data/responses/ — responses.jsonl, an answer a line for each prompt, side and sample
params: `respond` in params.yaml; `runtime.device` and `runtime.sharding`
run as: python -m tasks.respond (one process a GPU where there are several; or under torchrun)

Finished batches stand under runs/respond/ until all are there, so a run that is killed goes on.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from peft import PeftModel

from tasks.core import paths, ranks
from tasks.core.base_model import BaseModel
from tasks.core.errors import ArtifactError, ConfigError, DataError
from tasks.core.files import (
    atomic_folder,
    canonical_json,
    digest_of,
    manifest_digest,
    pretty_json,
    read_json,
    read_manifest,
    sha256_bytes,
    sha256_file,
    write_text,
)
from tasks.core.params import load_params, load_section
from tasks.core.runtime import RuntimeConfig
from tasks.core.section import Section, at_least, between
from tasks.dpo.generation import sampling
from tasks.dpo.generation.sampling import SIDES, Completion, Request, Sampling, Side
from tasks.dpo.model import sharding
from tasks.dpo.model.base_loading import load_base
from tasks.dpo.model.distributed import accelerator, all_done
from tasks.launch.launcher import relaunch_on_all_gpus
from tasks.launch.stage import door
from tasks.registry.stores.open_store import open_store
from tasks.registry.versions.pinned import PinnedAdapter, read_pinned
from tasks.telemetry import log, provenance
from tasks.telemetry.receipts import note

CHAMPION_KEY = "respond.champion"
GUARD_PROMPTS = 8  # on which the adapter's effect on the logits is measured
Row = dict[str, Any]
_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class RespondConfig(Section, path="respond"):
    """How the held-out prompts are answered.

    Attributes:
        max_prompts: Answer only so many prompts, chosen by a hash of their id; None answers all.
        samples_per_prompt: Answers of each side to each prompt.
        temperature: Divides the logits before drawing; 0 takes the likeliest token each time.
        top_p: Draw among the likeliest tokens that together reach this probability.
        max_new_tokens: Tokens after which an answer is cut.
        batch_tokens: Padded tokens (prompt and answer) of a batch; part of the result, as rounding is.
        seed: Of all draws.
        champion: Version of the registry that answers, too: `registry:NAME@DIGEST`; None for none.
    """

    REMOVED: ClassVar[Mapping[str, str]] = {
        "do_sample": "delete it: `temperature: 0` takes the likeliest token each time, above 0 draws"
    }

    max_prompts: Annotated[int, at_least(1)] | None
    samples_per_prompt: Annotated[int, at_least(1)]
    temperature: Annotated[float, at_least(0)]
    top_p: Annotated[float, between(0, 1, "(]")]
    max_new_tokens: Annotated[int, at_least(1)]
    batch_tokens: Annotated[int, at_least(1)]
    seed: int
    champion: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        is_useful = self.do_sample or self.samples_per_prompt == 1
        advice = "at `respond.temperature: 0` all samples of a prompt are the same: write 1"
        self.require(is_useful, "samples_per_prompt", advice)

    @property
    def do_sample(self) -> bool:
        """Whether answers are drawn at random."""
        return self.temperature > 0


@dataclasses.dataclass(frozen=True)
class Folders:
    """What the stage reads and writes."""

    tokens: Path = paths.TOKENS
    base: Path = paths.BASE
    adapter: Path = paths.ADAPTER
    out: Path = paths.RESPONSES
    runs: Path = paths.RUNS / "respond"


def run(
    folders: Folders, config: RespondConfig, runtime: RuntimeConfig, champion: PinnedAdapter | None = None
) -> dict[str, Any]:
    """Sample every side's answers, write them under ``folders.out`` and return the metrics (on rank 0).

    Args:
        folders: What is read and written.
        config: The stage's params.
        runtime: This machine.
        champion: The version that `respond.champion` names.

    Raises:
        ArtifactError: An input is missing, damaged or made for another base.
        ConfigError: `respond.max_new_tokens` does not fit the model's context behind some prompt, or the champion
            is of another base.
        DataError: There is no held-out prompt.
    """
    pinned = BaseModel.open(folders.base)
    inputs = {
        "base": pinned.digest,
        "tokens": manifest_digest(folders.tokens, "encode"),
        "adapter": manifest_digest(folders.adapter, "train"),
    }
    if champion:
        champion.refuse_other_base(pinned.digest, CHAMPION_KEY)
        inputs["champion"] = champion.digest
    sides = (*SIDES, sampling.CHAMPION) if champion else SIDES
    prompts = choose_prompts(read_prompts(folders.tokens), config.max_prompts)
    draws = _sampling(config, read_json(folders.tokens / "template.json"))
    device = accelerator(runtime)
    cut = sharding.is_wanted(runtime, device)
    policy = sharding.place(_load_policy(pinned, folders, device.device, champion, cut), device, runtime)
    _check_context(prompts, getattr(policy.config, "max_position_embeddings", None), config.max_new_tokens)
    requests = [
        Request(row["prompt_id"], sample, tuple(row["ids"]))
        for row in prompts
        for sample in range(config.samples_per_prompt)
    ]
    batches = sampling.plan_batches(requests, config.max_new_tokens, config.batch_tokens)
    kind = str(device.device.type)
    work = folders.runs / _fingerprint(inputs, config, f"{pinned.dtype_on(kind)} on {kind}")
    own = _answer(policy, batches, draws, sides, pinned.load_tokenizer(), work)
    shards = _gather_on_main(own)
    metrics: dict[str, Any] = {}
    delta = 0.0
    if shards is not None or cut:
        delta = sampling.max_abs_delta_logit(policy, [row["ids"] for row in choose_prompts(prompts, GUARD_PROMPTS)])
    if shards is not None:
        rows = [row for shard in shards for row in shard]
        answers = merge(rows, prompts, sides, config.samples_per_prompt)
        metrics = _describe(answers, sides, len(prompts), config.samples_per_prompt, delta)
        _write(folders.out, inputs, answers, metrics)
        shutil.rmtree(work, ignore_errors=True)
    all_done(device)
    return metrics


def read_prompts(tokens: Path) -> list[Row]:
    """Read the held-out prompts in their order.

    Raises:
        ArtifactError: The file is missing or a line is not a prompt.
        DataError: It holds no prompt.
    """
    read_manifest(tokens, "encode")
    path = tokens / "prompts.jsonl"
    try:
        with path.open(encoding="utf-8") as stream:
            rows = [json.loads(line) for line in stream]
        _ = [(row["prompt_id"], row["ids"]) for row in rows]
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is not a list of prompts ({error})", "run `dvc repro -f encode`") from None
    if not rows:
        raise DataError(f"{path} holds no held-out prompt", "raise `ingest`'s test share, or add data")
    return rows


def choose_prompts(prompts: list[Row], most: int | None) -> list[Row]:
    """Keep at most ``most`` prompts: those whose id hashes lowest, so that more data moves few; order is kept."""
    if most is None or len(prompts) <= most:
        return prompts
    by_hash = sorted(row["prompt_id"] for row in prompts)
    kept = set(sorted(by_hash, key=lambda prompt_id: sha256_bytes(f"respond/{prompt_id}".encode()))[:most])
    return [row for row in prompts if row["prompt_id"] in kept]


def _sampling(config: RespondConfig, template: Row) -> Sampling:
    eos_token_ids = tuple(template.get("eos_token_ids") or ())
    if not eos_token_ids:
        raise ArtifactError("template.json of the tokens names no end token", "run `dvc repro -f encode`")
    return Sampling(
        config.do_sample, config.temperature, config.top_p, config.max_new_tokens, eos_token_ids, config.seed
    )


def _load_policy(
    pinned: BaseModel, folders: Folders, device: Any, champion: PinnedAdapter | None, is_sharded: bool
) -> Any:
    """Load the policy and, beside its adapter, the champion's."""
    try:
        policy = PeftModel.from_pretrained(load_base(pinned, device, is_sharded), str(folders.adapter))
        if champion:
            with tempfile.TemporaryDirectory() as folder:
                champion.write(Path(folder))
                policy.load_adapter(folder, sampling.CHAMPION)
        return policy.eval()
    except (ValueError, RuntimeError, KeyError, TypeError, OSError) as error:
        reason = f"the adapter in {folders.adapter} does not fit the base model ({error})"
        raise ArtifactError(reason[:500], "train it on this base: `dvc repro train`") from None


def _check_context(prompts: list[Row], context: int | None, max_new_tokens: int) -> None:
    longest = max(prompts, key=lambda row: len(row["ids"]))
    if context is not None and len(longest["ids"]) + max_new_tokens > context:
        raise ConfigError(
            f"prompt {longest['prompt_id']} has {len(longest['ids'])} tokens, and {max_new_tokens} new ones "
            f"do not fit the model's context of {context}",
            "lower `respond.max_new_tokens`, or cut prompts shorter in `encode`",
        )


def _fingerprint(inputs: Row, config: RespondConfig, device: str) -> str:
    """Name everything that unfinished work depends on, the generating code and its libraries too."""
    code = sha256_file(Path(sampling.__file__))
    return digest_of([inputs, dataclasses.asdict(config), device, code, provenance.versions()])[:16]


def _answer(
    policy: Any,
    batches: list[list[Request]],
    draws: Sampling,
    sides: Sequence[Side],
    tokenizer: Any,
    work: Path,
) -> list[Row]:
    """Answer this rank's share of the batches, each side in turn; take what an earlier run finished from ``work``."""
    mine = list(enumerate(batches))[ranks.rank() :: ranks.world_size()]
    files = [work / f"batch-{number:05d}.json" for number, _ in mine]
    left = [(done, batch) for done, (_, batch) in zip(files, mine, strict=True) if not done.is_file()]
    in_step = sharding.is_sharded(policy)
    idle = _most_over_ranks(len(left)) - len(left) if in_step else 0
    tokens, began = 0, time.monotonic()
    for done, batch in log.progress(left, "answering", total=len(left), unit="batch"):
        completions = [c for side in sides for c in sampling.generate_batch(policy, batch, draws, side, in_step)]
        tokens += sum(len(completion.ids) for completion in completions)
        write_text(done, canonical_json([_row(completion, tokenizer) for completion in completions]))
    for side in list(sides) * idle:  # the other ranks need this one's part of the weights
        sampling.generate_batch(policy, batches[-1][-1:], draws, side, in_step)
    note(generated_tokens=tokens, generated_tokens_per_s=round(tokens / (time.monotonic() - began), 1))
    return [row for done in files for row in read_json(done)]


def _most_over_ranks(count: int) -> int:
    """Return the largest ``count`` of all ranks."""
    counts: list[Any] = [None] * ranks.world_size()
    torch.distributed.all_gather_object(counts, count)
    return int(max(counts))


def _gather_on_main(rows: list[Row]) -> list[list[Row]] | None:
    """Return every rank's rows on rank 0, None on the others; ranks need not share a disk for it."""
    if ranks.world_size() == 1:
        return [rows]
    shards: list[Any] | None = [None] * ranks.world_size() if ranks.is_main() else None
    torch.distributed.gather_object(rows, shards)
    return shards


def _row(completion: Completion, tokenizer: Any) -> Row:
    return {
        "prompt_id": completion.prompt_id,
        "side": completion.side,
        "sample": completion.sample,
        "text": tokenizer.decode(list(completion.ids), skip_special_tokens=True),
        "n_tokens": len(completion.ids),
        "finish": completion.finish,
    }


def merge(rows: list[Row], prompts: list[Row], sides: Sequence[Side], samples: int) -> list[Row]:
    """Order answers by prompt, side, sample, and check that each is there exactly once.

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


def _describe(answers: list[Row], sides: Sequence[Side], prompts: int, samples: int, delta: float) -> dict[str, Any]:
    _log.info("%d prompts answered by %s; the adapter moves logits by up to %.3g", prompts, ", ".join(sides), delta)
    return {
        "prompts": prompts,
        "samples": samples,
        "sides": {side: describe([row for row in answers if row["side"] == side]) for side in sides},
        "adapter_max_abs_delta_logit": float(f"{delta:.6g}"),
    }


def _write(out: Path, inputs: Row, answers: list[Row], metrics: dict[str, Any]) -> None:
    with atomic_folder(out, {"stage": "respond", "inputs": inputs}) as draft:
        lines = (json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in answers)
        write_text(draft / "responses.jsonl", "".join(lines))
        write_text(draft / "metrics.json", pretty_json(metrics))


def describe(answers: list[Row]) -> dict[str, float]:
    """Return a side's mean length in tokens, and its shares of empty, truncated and distinct answers."""
    count = len(answers)
    return {
        "tokens_mean": round(sum(row["n_tokens"] for row in answers) / count, 6),
        "empty": round(sum(not row["text"].strip() for row in answers) / count, 6),
        "truncated": round(sum(row["finish"] == "length" for row in answers) / count, 6),
        "distinct_ratio": round(len({row["text"] for row in answers}) / count, 6),
    }


def find_champion(config: RespondConfig) -> PinnedAdapter | None:
    """Read the version that `respond.champion` names from the registry of params.yaml; None where it names none.

    Raises:
        ConfigError: It names nothing, or something that may be another adapter tomorrow.
        RegistryError: The version is damaged.
    """
    if config.champion is None:
        return None
    section = load_params(paths.PARAMS).get("register") or {}
    return read_pinned(config.champion, open_store(str(section.get("root", "models/registry"))), CHAMPION_KEY)


def main() -> None:
    """Bind the standard paths and params.yaml, on every visible GPU."""
    relaunch_on_all_gpus("respond")
    with door("respond", RespondConfig) as config:
        run(Folders(), config, load_section(paths.PARAMS, "runtime", RuntimeConfig), find_champion(config))


if __name__ == "__main__":
    main()
