"""Pin the base model: a hub revision, a local folder, or the demo's own model trained from scratch.

reads:  `base.source`
writes: data/base/ — a manifest of the model files' hashes; for the demo the model itself
params: `base` in params.yaml
run as: python -m tasks.base

Later stages depend on the manifest alone. Hub weights stay in the hub's cache, local ones where they are.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tasks.core import paths
from tasks.core.files import atomic_folder, digest_of, pretty_json, write_text
from tasks.core.section import Section, filled
from tasks.demo.model.model import DemoModelConfig, train_demo_model
from tasks.launch.stage import door
from tasks.pinning.hub_snapshot import download
from tasks.pinning.model_folder import describe_model, hash_model, local_folder
from tasks.pinning.model_settings import check_settings
from tasks.pinning.model_weights import check_weights
from tasks.telemetry import log

DEMO = "demo"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class BaseConfig(Section, path="base"):
    """Which model is the base.

    Attributes:
        source: `demo`, a folder in transformers' format, or a hub id (`organisation/name`).
        revision: The hub commit, 40 hex digits; null for folders and the demo.
        quantise: `none`, or `nf4` to hold the linear layers in four bits wherever the model is loaded.
        compute_dtype: What the model computes in wherever it is loaded: `float32`, `bfloat16`, or `auto`, which is
            bfloat16 on CUDA and float32 on a CPU; on a CPU, bfloat16 is for the products of linear layers alone.
    """

    REMOVED: ClassVar[Mapping[str, str]] = {"demo": "delete it: the demo's model has one size"}

    source: Annotated[str, filled("write `demo`, a folder or a hub id")] = DEMO
    revision: str | None = None
    quantise: Literal["none", "nf4"] = "none"
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        needs_none = self.kind == "hub" or self.revision is None
        self.require(needs_none, "revision", "write null: only hub models have revisions")

    @property
    def kind(self) -> str:
        """`demo`, `local` (an existing folder, or what is written like one) or `hub`."""
        if self.source == DEMO:
            return "demo"
        is_path = self.source.startswith((".", "/", "~")) or Path(self.source).is_dir()
        return "local" if is_path or not _HUB_ID.fullmatch(self.source) else "hub"


@dataclasses.dataclass(frozen=True)
class Folders:
    """What the stage writes."""

    base: Path = paths.BASE


def run(folders: Folders, config: BaseConfig, demo: DemoModelConfig | None = None) -> dict[str, Any]:
    """Pin the base model under ``folders.base`` and return the metrics; ``demo`` gives the demo's model another size.

    Raises:
        ConfigError: The source is no model, or a hub revision is missing or can move.
        DataError: The folder or repository lacks a file that a model needs, has one that does not load, or weights that
            do not fit the config.
        NetworkError: The hub does not answer.
    """
    about: dict[str, Any] = {"stage": "base", "kind": config.kind, "source": config.source, "revision": config.revision}
    with atomic_folder(folders.base, about) as draft:
        if config.kind == "demo":
            _log.info("training the demo's base model from scratch; name a model in `base.source` for a real one")
            metrics, model = _train_demo(demo or DemoModelConfig(), draft), draft
        else:
            is_local = config.kind == "local"
            model = local_folder(config.source) if is_local else download(config.source, config.revision)
            metrics = describe_model(model)
            check_settings(model)
            check_weights(model)
        about.update(_identity(hash_model(model), config.quantise))
        if config.compute_dtype != "auto":
            about["compute_dtype"] = config.compute_dtype
        write_text(draft / "metrics.json", pretty_json(metrics))
    _log.info("%s: %s parameters, pinned as %s", config.source, f"{metrics['parameters']:,}", about["digest"][:12])
    return metrics


def _train_demo(config: DemoModelConfig, folder: Path) -> dict[str, Any]:
    """Train the demo's tokenizer and model into ``folder``, with the loss curve in curve.csv; return the metrics."""
    trained = train_demo_model(config, folder)
    curve = [f"{step},{loss:.6g}" for step, loss in enumerate(trained.losses, start=1)]
    write_text(folder / "curve.csv", "\n".join(["step,loss", *curve]) + "\n")
    return {**describe_model(folder), "loss": round(trained.loss, 6), "tokens": trained.tokens}


def _identity(files: dict[str, Any], quantise: str) -> dict[str, Any]:
    """Return what the manifest says of which model this is; a quantised model is another one than its files."""
    if quantise == "none":
        return {"model_files": files, "digest": digest_of(files)}
    return {"model_files": files, "quantise": quantise, "digest": digest_of({"files": files, "quantise": quantise})}


def main() -> None:
    """Bind the standard paths and params.yaml."""
    with door("base", BaseConfig) as config:
        run(Folders(), config)


if __name__ == "__main__":
    main()
