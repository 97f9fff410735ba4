"""Score benchmarks of lm-evaluation-harness without and with the adapter: what did alignment cost?

reads:  data/base/, models/adapter/
writes: results/benchmarks/metrics.json — every metric before and after, and the greatest drop
params: `benchmarks` in params.yaml; `runtime.device`
run as: python -m tasks.benchmarks

Without `benchmarks.tasks` it loads no model and takes no time. It runs in one process, on one device.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from tasks.core import paths
from tasks.core.base_model import BaseModel
from tasks.core.errors import ConfigError
from tasks.core.files import atomic_folder, manifest_digest, pretty_json, write_text
from tasks.core.params import load_section
from tasks.core.runtime import RuntimeConfig
from tasks.core.section import Section, at_least
from tasks.harness.before_and_after import before_and_after, greatest_drop, require_harness
from tasks.launch.stage import door
from tasks.telemetry import log

_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class BenchmarksConfig(Section, path="benchmarks"):
    """Which benchmarks are scored before and after training.

    Attributes:
        tasks: Tasks or groups of lm-evaluation-harness; none takes no time.
        definitions: A folder with task files of one's own in the harness's YAML.
        limit: The most examples of each task; None takes all.
    """

    tasks: tuple[str, ...]
    definitions: str | None
    limit: Annotated[int, at_least(1, "or null")] | None


@dataclasses.dataclass(frozen=True)
class Folders:
    """What the stage reads and writes."""

    base: Path = paths.BASE
    adapter: Path = paths.ADAPTER
    out: Path = paths.BENCHMARKS


def run(folders: Folders, config: BenchmarksConfig, runtime: RuntimeConfig) -> dict[str, Any]:
    """Score the benchmarks, write them under ``folders.out`` and return them.

    Raises:
        ArtifactError: An input is missing or damaged.
        ConfigError: The harness is not installed, does not know a task, or the base is sharded.
        DataError: The harness fails.
    """
    base = BaseModel.open(folders.base)
    inputs = {"base": base.digest, "adapter": manifest_digest(folders.adapter, "train")}
    changes = _score(base, folders.adapter, config, runtime) if config.tasks else {}
    for task, metrics in changes.items():
        for name, change in metrics.items():
            _log.info("%s, %s: %.4f before, %.4f after", task, name.split(",")[0], change.before, change.after)

    by_task = {
        task: {name: dataclasses.asdict(change) for name, change in metrics.items()}
        for task, metrics in changes.items()
    }
    result = {"tasks": by_task, "greatest_drop": greatest_drop(changes) if changes else None}
    with atomic_folder(folders.out, {"stage": "benchmarks", "inputs": inputs}) as draft:
        write_text(draft / "metrics.json", pretty_json(result))
    return result


def _score(base: BaseModel, adapter: Path, config: BenchmarksConfig, runtime: RuntimeConfig) -> Any:
    require_harness()
    if runtime.sharding != "none":
        raise ConfigError(
            f"`runtime.sharding` is {runtime.sharding}, and benchmarks need the whole base on one device",
            "leave `benchmarks.tasks` empty, or score them apart with `python -m tasks.registry export-merged`",
        )
    from peft import PeftModel

    from tasks.dpo.model.base_loading import load_base
    from tasks.dpo.model.distributed import open_accelerator

    definitions = None if config.definitions is None else Path(config.definitions)
    if definitions is not None and not definitions.is_dir():
        raise ConfigError(f"`benchmarks.definitions` is {config.definitions}, which is no folder", "name one, or null")
    policy = PeftModel.from_pretrained(load_base(base, open_accelerator(runtime).device), str(adapter)).eval()
    return before_and_after(policy, base.load_tokenizer(), config.tasks, definitions, config.limit)


def main() -> None:
    """Bind the standard paths and params.yaml."""
    with door("benchmarks", BenchmarksConfig) as config:
        run(Folders(), config, load_section(paths.PARAMS, "runtime", RuntimeConfig))


if __name__ == "__main__":
    main()
