"""Let the policy, the base and the champion answer the held-out prompts, under the same conditions.

The reference here is the bare base, whatever adapter training continued from: all versions of one base are compared
with the same opponent.

reads:  data/tokens/prompts.jsonl and template.json, data/base/, models/adapter/, data/adapters/champion/; the files of
        `respond.prompt_sets`, as in data/raw/
writes: data/responses/ — responses.jsonl, an answer a line for each prompt, side and sample; added_prompts.jsonl, the
        prompts of `respond.prompt_sets`; metrics.json, with the KL divergence to the base
params: `respond` in params.yaml, `encode` for the template; `runtime.device` and `runtime.sharding`
run as: python -m tasks.respond (one process a GPU where there are several; or under torchrun)

Finished parts are kept under runs/respond/ until all are there, so a run that was killed continues from them.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.core import paths
from tasks.core.base_model import BaseModel
from tasks.core.files import atomic_folder, digest_of, manifest_digest, pretty_json, write_text
from tasks.core.json_lines import write_json_lines
from tasks.core.params import load_section
from tasks.core.pinned_adapter import CHAMPION_KEY, PinnedAdapter, refuse_other_source
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.generation.answering import describe, load_policy, merge, work_name
from tasks.dpo.generation.backends import Asked, ask_model, ask_server
from tasks.dpo.generation.held_out import Row, choose_prompts, read_end_tokens, read_prompts
from tasks.dpo.generation.questions import CHAMPION, SIDES, Questions, Request, Side
from tasks.dpo.generation.respond_config import RespondConfig, tell_of_sampling
from tasks.dpo.model.distributed import all_done, open_accelerator
from tasks.launch.launcher import relaunch_on_all_gpus
from tasks.launch.stage import door
from tasks.pairs.encoding.base_tokenizer import base_settings, generation_eos
from tasks.pairs.encoding.encoder import EncodeConfig, PairEncoder
from tasks.pairs.encoding.turn_marks import turn_marks
from tasks.pairs.prompts.prompt_sets import read_prompt_sets
from tasks.telemetry import log

_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class Folders:
    """What the stage reads and writes."""

    tokens: Path = paths.TOKENS
    base: Path = paths.BASE
    adapter: Path = paths.ADAPTER
    champion: Path = paths.CHAMPION
    out: Path = paths.RESPONSES
    runs: Path = paths.RUNS / "respond"


def run(
    folders: Folders, config: RespondConfig, runtime: RuntimeConfig, encode: EncodeConfig | None = None
) -> dict[str, Any]:
    """Sample every side's answers, write them under ``folders.out`` and return the metrics (on rank 0).

    ``encode`` says how the prompts were rendered; None stands for its defaults.

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
    asked = _asked(folders.tokens, base, config, encode or EncodeConfig(), sides)
    if asked.added:
        inputs["prompt_sets"] = digest_of(asked.added)

    accelerator = open_accelerator(runtime)
    kind = str(accelerator.device.type)
    computed = "server" if config.server else f"{base.dtype_on(kind)} on {kind}"
    work = folders.runs / work_name(inputs, dataclasses.asdict(config), asked.questions.stop, computed)
    if config.server:
        rows, effect = ask_server(config.server, base, asked, work)
    else:
        policy = load_policy(base, folders.adapter, champion, accelerator, runtime)
        rows, effect = ask_model(policy, base, asked, work)

    metrics: dict[str, Any] = {}
    if rows is not None:
        answers = merge(rows, asked.prompts, sides, config.samples_per_prompt)
        metrics = describe(answers, sides, len(asked.prompts), config.samples_per_prompt)
        metrics |= {"adapter_max_abs_delta_logit": float(f"{effect.max_abs_delta:.6g}"), "kl": effect.kl}
        with atomic_folder(folders.out, {"stage": "respond", "inputs": inputs}) as draft:
            write_json_lines(draft / "responses.jsonl", answers)
            if asked.added:
                write_json_lines(draft / "added_prompts.jsonl", asked.added)
            write_text(draft / "metrics.json", pretty_json(metrics))
        shutil.rmtree(work, ignore_errors=True)
        counts = len(asked.prompts), ", ".join(sides)
        _log.info("%d prompts answered by %s; the adapter moves logits by up to %.3g", *counts, effect.max_abs_delta)
    all_done(accelerator)
    return metrics


def _asked(tokens: Path, base: BaseModel, config: RespondConfig, encode: EncodeConfig, sides: Sequence[Side]) -> Asked:
    """Read the prompts, find out where answers end, and tell of it."""
    held_out, added = _prompts(tokens, base, config, encode)
    sampling = config.sampling(read_end_tokens(tokens))
    samples = range(config.samples_per_prompt)
    requests = [Request(row["prompt_id"], n, tuple(row["ids"])) for row in (*held_out, *added) for n in samples]

    tokenizer = base.load_tokenizer()
    stop = turn_marks(tokenizer, encode) if config.stop == "auto" else config.stop
    ends = tokenizer.convert_ids_to_tokens(sampling.eos_token_ids)
    tell_of_sampling(config, base_settings(base, "generation_config.json"), ends, stop)
    return Asked([*held_out, *added], added, Questions(requests, sampling, sides, config.batch_tokens, stop))


def _prompts(tokens: Path, base: BaseModel, config: RespondConfig, encode: EncodeConfig) -> tuple[list[Row], list[Row]]:
    """Return the held-out prompts to answer, and those of `respond.prompt_sets`."""
    held_out = choose_prompts(read_prompts(tokens), config.max_prompts)
    if not config.prompt_sets:
        return held_out, []
    slices = {row.get("slice") for row in held_out}
    taken = next((name for name in config.prompt_sets if name in slices), None)
    config.require(taken is None, "prompt_sets", f"{taken} is a slice of the held-out prompts: name the set otherwise")
    encoder = PairEncoder(base.load_tokenizer(), encode, generation_eos(base))
    return held_out, read_prompt_sets(config.prompt_sets, encoder, {row["prompt_id"] for row in held_out})


def main() -> None:
    """Bind the standard paths and params.yaml, on every visible GPU."""
    relaunch_on_all_gpus("respond")
    with door("respond", RespondConfig) as config:
        encode = load_section(paths.PARAMS, "encode", EncodeConfig)
        run(Folders(), config, load_section(paths.PARAMS, "runtime", RuntimeConfig), encode)


if __name__ == "__main__":
    main()
