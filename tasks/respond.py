"""Let the policy, the base and the champion answer the held-out prompts, under the same conditions.

The reference here is the bare base, whatever adapter training continued from: all versions of one base are compared
with the same opponent.

reads:  data/tokens/prompts.jsonl and template.json, data/base/, models/adapter/, data/adapters/champion/
writes: data/responses/ — responses.jsonl, an answer a line for each prompt, side and sample
params: `respond` in params.yaml; `runtime.device` and `runtime.sharding`
run as: python -m tasks.respond (one process a GPU where there are several; or under torchrun)

Finished batches are kept under runs/respond/ until all are there, so a run that was killed continues from them.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tasks.core import paths
from tasks.core.base_model import BaseModel
from tasks.core.files import atomic_folder, manifest_digest, pretty_json, write_text
from tasks.core.json_lines import write_json_lines
from tasks.core.params import load_section
from tasks.core.pinned_adapter import CHAMPION_KEY, PinnedAdapter, refuse_other_source
from tasks.core.runtime import RuntimeConfig
from tasks.core.section import Section, at_least, between
from tasks.dpo.generation.answering import answer, describe, gather_on_main, load_policy, merge, work_name
from tasks.dpo.generation.held_out import check_context, choose_prompts, read_end_tokens, read_prompts
from tasks.dpo.generation.sampling import CHAMPION, SIDES, Request, Sampling, max_abs_delta_logit, plan_batches
from tasks.dpo.model import sharding
from tasks.dpo.model.distributed import all_done, open_accelerator
from tasks.launch.launcher import relaunch_on_all_gpus
from tasks.launch.stage import door
from tasks.telemetry import log

GUARD_PROMPTS = 8  # on which the adapter's effect on the logits is measured
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
        is_useful = self.temperature > 0 or self.samples_per_prompt == 1
        advice = "at `respond.temperature: 0` all samples of a prompt are the same: write 1"
        self.require(is_useful, "samples_per_prompt", advice)


@dataclasses.dataclass(frozen=True)
class Folders:
    """What the stage reads and writes."""

    tokens: Path = paths.TOKENS
    base: Path = paths.BASE
    adapter: Path = paths.ADAPTER
    champion: Path = paths.CHAMPION
    out: Path = paths.RESPONSES
    runs: Path = paths.RUNS / "respond"


def run(folders: Folders, config: RespondConfig, runtime: RuntimeConfig) -> dict[str, Any]:
    """Sample every side's answers, write them under ``folders.out`` and return the metrics (on rank 0).

    Raises:
        ArtifactError: An input is missing, damaged or made for another base.
        ConfigError: `respond.max_new_tokens` does not fit the model's context behind some prompt.
        DataError: There is no held-out prompt.
    """
    base = BaseModel.open(folders.base)
    champion = PinnedAdapter.open(folders.champion, base.digest)
    refuse_other_source(champion, folders.champion, CHAMPION_KEY, config.champion)
    inputs = {
        "base": base.digest,
        "tokens": manifest_digest(folders.tokens, "encode"),
        "adapter": manifest_digest(folders.adapter, "train"),
        **({"champion": champion.version} if champion else {}),
    }
    sides = (*SIDES, CHAMPION) if champion else SIDES
    prompts = choose_prompts(read_prompts(folders.tokens), config.max_prompts)
    end_tokens = read_end_tokens(folders.tokens)
    draws = Sampling(config.temperature, config.top_p, config.max_new_tokens, end_tokens, config.seed)

    accelerator = open_accelerator(runtime)
    policy = load_policy(base, folders.adapter, champion, accelerator, runtime)
    check_context(prompts, getattr(policy.config, "max_position_embeddings", None), config.max_new_tokens)

    samples = range(config.samples_per_prompt)
    requests = [Request(row["prompt_id"], sample, tuple(row["ids"])) for row in prompts for sample in samples]
    batches = plan_batches(requests, config.max_new_tokens, config.batch_tokens)
    kind = str(accelerator.device.type)
    work = folders.runs / work_name(inputs, dataclasses.asdict(config), f"{base.dtype_on(kind)} on {kind}")
    rows = gather_on_main(answer(policy, batches, draws, sides, base.load_tokenizer(), work))

    metrics: dict[str, Any] = {}
    if rows is not None or sharding.is_sharded(policy):  # a forward pass of a sharded model takes all ranks
        delta = max_abs_delta_logit(policy, [row["ids"] for row in choose_prompts(prompts, GUARD_PROMPTS)])
    if rows is not None:
        answers = merge(rows, prompts, sides, config.samples_per_prompt)
        metrics = describe(answers, sides, len(prompts), config.samples_per_prompt)
        metrics["adapter_max_abs_delta_logit"] = float(f"{delta:.6g}")
        with atomic_folder(folders.out, {"stage": "respond", "inputs": inputs}) as draft:
            write_json_lines(draft / "responses.jsonl", answers)
            write_text(draft / "metrics.json", pretty_json(metrics))
        shutil.rmtree(work, ignore_errors=True)
        counts = len(prompts), ", ".join(sides)
        _log.info("%d prompts answered by %s; the adapter moves logits by up to %.3g", *counts, delta)
    all_done(accelerator)
    return metrics


def main() -> None:
    """Bind the standard paths and params.yaml, on every visible GPU."""
    relaunch_on_all_gpus("respond")
    with door("respond", RespondConfig) as config:
        run(Folders(), config, load_section(paths.PARAMS, "runtime", RuntimeConfig))


if __name__ == "__main__":
    main()
