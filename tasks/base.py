"""Pin the base model: a hub revision, a local folder, or the demo's own model trained from scratch.

reads:  `base.source`
writes: data/base/ — a manifest of the model files' hashes; for the demo the model itself
params: `base` in params.yaml
run as: python -m tasks.base

Later stages depend on the manifest alone. Hub weights stay in the hub's cache, local ones where they are.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tasks.core import paths
from tasks.core.errors import ConfigError, DataError, NetworkError
from tasks.core.files import atomic_folder, digest_of, pretty_json, sha256_file, write_text
from tasks.core.section import Section, filled
from tasks.demo.model.model import DemoModelConfig, train_demo_model
from tasks.launch.stage import door
from tasks.telemetry import log
from tasks.telemetry.log import progress

DEMO = "demo"
PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
_SUBFOLDERS = "*/*"  # other formats of the same model lie there, as large as the model
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_OWN = ("manifest.json", "metrics.json", "curve.csv")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_TIMEOUT_S = 20.0
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


def run(out: Path, config: BaseConfig, demo: DemoModelConfig | None = None) -> dict[str, Any]:
    """Pin the base model under ``out`` and return the metrics; ``demo`` gives the demo's model another size.

    Raises:
        ConfigError: The source is no model, or a hub revision is missing or can move.
        DataError: The folder or repository lacks a file that a model needs.
        NetworkError: The hub does not answer.
    """
    about: dict[str, Any] = {"stage": "base", "kind": config.kind, "source": config.source, "revision": config.revision}
    with atomic_folder(out, about) as draft:
        if config.kind == "demo":
            _log.info("training the demo's base model from scratch; name a model in `base.source` for a real one")
            metrics, folder = _train_demo(demo or DemoModelConfig(), draft), draft
        else:
            folder = _local(config.source) if config.kind == "local" else _download(config.source, config.revision)
            metrics = _describe(folder, model_files(folder))
        files = hash_model(folder)
        about.update(_identity(files, config.quantise))
        if config.compute_dtype != "auto":
            about["compute_dtype"] = config.compute_dtype
        write_text(draft / "metrics.json", pretty_json(metrics))
    _log.info("%s: %s parameters, pinned as %s", config.source, f"{metrics['parameters']:,}", about["digest"][:12])
    return metrics


def _identity(files: dict[str, Any], quantise: str) -> dict[str, Any]:
    """Return the manifest's word on what the base is; a quantised one is another model than its files."""
    if quantise == "none":
        return {"model_files": files, "digest": digest_of(files)}
    return {"model_files": files, "quantise": quantise, "digest": digest_of({"files": files, "quantise": quantise})}


def hash_model(folder: Path) -> dict[str, dict[str, Any]]:
    """Return SHA-256 and size of every file that makes up a model and its tokenizer.

    Raises:
        DataError: The folder has no config, no tokenizer or no safetensors weights.
    """
    names = progress(model_files(folder), "hashing the base model", unit="file")
    return {name: {"sha256": sha256_file(folder / name), "size": (folder / name).stat().st_size} for name in names}


def model_files(folder: Path) -> list[str]:
    """Return the names of the files that make up a model and its tokenizer.

    Raises:
        DataError: The folder has no config, no tokenizer or no whole safetensors weights.
    """
    names = sorted({path.name for pattern in PATTERNS for path in folder.glob(pattern)} - set(_OWN))
    if "config.json" not in names:
        raise DataError(f"{folder} has no config.json", "name a folder in transformers' format in `base.source`")
    if not any(name in names for name in _TOKENIZERS):
        raise DataError(f"{folder} has no tokenizer ({', '.join(_TOKENIZERS)})", "save the tokenizer beside the model")
    _check_weights(folder, names)
    return names


def _check_weights(folder: Path, names: list[str]) -> None:
    """Refuse pickled, absent and incomplete weights."""
    for index in (name for name in names if name.endswith(".safetensors.index.json")):
        missing = sorted(set(_json(folder / index).get("weight_map", {}).values()) - set(names))
        if missing:
            raise DataError(f"{folder} lacks {', '.join(missing)}, which {index} names", "download the model again")
    if any(name.endswith(".safetensors") for name in names):
        return
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        advice = "save it with `save_pretrained(…)`, which writes safetensors"
        raise DataError(f"{folder} has its weights as a pickle only, which can run code when loaded", advice)
    raise DataError(f"{folder} has no weights (*.safetensors)", "save the model there with `save_pretrained(…)`")


def _train_demo(config: DemoModelConfig, folder: Path) -> dict[str, Any]:
    """Train the demo's tokenizer and model into ``folder``; its loss curve goes to curve.csv."""
    found = train_demo_model(config, folder)
    curve = [f"{step},{loss:.6g}" for step, loss in enumerate(found.losses, start=1)]
    write_text(folder / "curve.csv", "\n".join(["step,loss", *curve]) + "\n")
    return {**_describe(folder, model_files(folder)), "loss": round(found.loss, 6), "tokens": found.tokens}


def _local(source: str) -> Path:
    folder = Path(source)
    if not folder.is_dir():
        advice = "correct the path (~ is not expanded), or name a hub model as ORG/NAME"
        raise ConfigError(f"`base.source` is {source!r}, and there is no such folder", advice)
    return folder


def _describe(folder: Path, names: list[str]) -> dict[str, Any]:
    """Return size and vocabulary of a model from its config and the headers of its weights."""
    from safetensors import SafetensorError, safe_open

    parameters = 0
    for path in (folder / name for name in names if name.endswith(".safetensors")):
        try:
            with safe_open(path, framework="numpy") as weights:
                parameters += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
        except SafetensorError as error:
            raise DataError(f"{path} is not a safetensors file ({error})", "download or save the model again") from None
    config = _json(folder / "config.json")
    text = config.get("text_config", config)  # models of more than text keep the language model's size there
    return {"parameters": parameters, "vocabulary": int(text.get("vocab_size", 0))}


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object that came with a model."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error})", "download or save the model again") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} holds no JSON object", "download or save the model again")
    return found


def _download(source: str, revision: str | None) -> Path:
    """Bring a hub model at a pinned commit into the hub's cache; return its folder there."""
    if revision is None or not _COMMIT.fullmatch(revision):
        raise ConfigError(_moving(source, revision), _pin(source, revision or "main"))
    from huggingface_hub import HfApi

    try:
        with _Hub(source, revision):  # the download would try for half a minute before it told of a fault
            HfApi().model_info(source, revision=revision, timeout=_TIMEOUT_S)
    except NetworkError as unreachable:
        return _cached(source, revision, unreachable)
    with _Hub(source, revision):
        return _snapshot(source, revision)


def _cached(source: str, revision: str, unreachable: NetworkError) -> Path:
    """Return the copy in the hub's cache, for the commit cannot have changed; without one, raise ``unreachable``."""
    from huggingface_hub import errors

    try:
        folder = _snapshot(source, revision, is_local=True)
    except errors.LocalEntryNotFoundError:
        raise unreachable from None
    _log.info("the hub does not answer; the copy in its cache serves: %s", folder)
    return folder


def _snapshot(source: str, revision: str, is_local: bool = False) -> Path:
    """Return the folder of the hub's cache that holds the model's files, downloaded unless ``is_local``."""
    from huggingface_hub import snapshot_download

    wanted, others = list(PATTERNS), [_SUBFOLDERS]
    return Path(
        snapshot_download(
            source, revision=revision, allow_patterns=wanted, ignore_patterns=others, local_files_only=is_local
        )
    )


def _moving(source: str, revision: str | None) -> str:
    if revision is None:
        return f"`base.revision` is missing: {source} moves"
    return f"`base.revision` is {revision!r}, a name that can move, not a commit of {source}"


def _pin(source: str, name: str) -> str:
    """Say what to write instead: the commit that ``name`` stands at now."""
    from huggingface_hub import HfApi

    try:
        with _Hub(source, name):
            commit = HfApi().model_info(source, revision=name, timeout=_TIMEOUT_S).sha
    except NetworkError as error:
        return f"write its commit, 40 hex digits; the hub could not be asked for it: {error.what}"
    return f"pin the commit that `{name}` stands at now: revision: {commit}"


class _Hub:
    """Turn the hub client's errors into ours, naming the model and the endpoint."""

    def __init__(self, source: str, revision: str) -> None:
        self.what = f"{source} at {revision}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None:
            return
        from huggingface_hub import constants, errors
        from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported on demand

        hub = f"the hub ({constants.ENDPOINT}, set by HF_ENDPOINT)"
        if isinstance(error, errors.RevisionNotFoundError):
            raise ConfigError(f"{hub} has no {self.what}", "correct `base.revision`") from None
        if isinstance(error, errors.RepositoryNotFoundError):
            advice = "correct `base.source` (no folder here has that name either), or log in (HF_TOKEN) to see it"
            raise ConfigError(f"{hub} has no model for {self.what}", advice) from None
        unreachable = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError)
        if isinstance(error, (*unreachable, httpx.HTTPError, ConnectionError, TimeoutError)):
            told = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise NetworkError(
                f"{hub} does not answer for {self.what} ({told})", "check the network, run again"
            ) from None


def main() -> None:
    """Bind the standard paths and params.yaml."""
    with door("base", BaseConfig) as config:
        run(paths.BASE, config)


if __name__ == "__main__":
    main()
