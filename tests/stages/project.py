"""A small project folder in which `python -m tasks.reference` and `python -m tasks.train` can run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tasks.core.files import atomic_folder, digest_of, sha256_file
from tasks.pairs.tokens.token_cache import TokenPairs, TokenWriter
from tests.conftest import ROOT
from tests.dpo import tiny

TRAIN = {
    "learning_rate": 5e-3,
    "pairs_per_step": 2,
    "epochs": 3,
    "evaluations": 4,
    "seed": 7,
    "lora": {"rank": 4, "alpha": 8},
}
RUNTIME = {"tokens_per_micro_batch": 4096, "checkpoint_every_s": 120.0, "device": "cpu"}


def build(root: Path, pairs: int = 12, base_seed: int = 0) -> Path:
    """Write base, tokens and params of a project whose later stages have not run."""
    root.mkdir(parents=True, exist_ok=True)
    write_base(root, base_seed)
    write_tokens(root, {"train": tiny.pairs(pairs), "test": tiny.pairs(7, 99)})
    write_params(root)
    for name in ("init", "champion"):
        write_no_adapter(root / "data/adapters" / name)
    return root


def write_base(root: Path, seed: int = 0, **more: str) -> None:
    """Pin a random model in `data/base/`, in the layout of the built-in demo; ``more`` is written to its manifest."""
    model = tiny.base("llama", seed)
    model.save_pretrained(root / "weights")
    files = {path.name: sha256_file(path) for path in sorted((root / "weights").iterdir())}
    about = {"stage": "base", "kind": "demo", "source": "demo", "revision": None, "digest": digest_of(files)}
    about |= more
    with atomic_folder(root / "data/base", about) as draft:
        for name in files:
            (draft / name).write_bytes((root / "weights" / name).read_bytes())


def write_tokens(root: Path, splits: Mapping[str, TokenPairs]) -> None:
    """Write `data/tokens/` as the encode stage does."""
    with atomic_folder(root / "data/tokens", {"stage": "encode"}) as draft:
        for split, pairs in splits.items():
            with TokenWriter(draft, split) as writer:
                writer.append(pairs)


def write_no_adapter(folder: Path) -> None:
    """Write what the adapters stage leaves in ``folder`` where params.yaml names no adapter."""
    with atomic_folder(folder, {"stage": "adapters", "source": None}):
        pass


def write_params(root: Path, runtime: Mapping[str, Any] | None = None, **train: Any) -> None:
    """Write `params.yaml` with changes to the sections `train` and `runtime`."""
    document = {"reference": {"model": "base"}, "train": {**TRAIN, **train}, "runtime": {**RUNTIME, **(runtime or {})}}
    with (root / "params.yaml").open("w") as stream:
        YAML(typ="safe", pure=True).dump(document, stream)


def start(root: Path, stage: str, **more: str) -> subprocess.Popen[str]:
    """Start `python -m tasks.<stage>` in the project, in a process of its own, with more in its environment."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}
    command = [sys.executable, "-m", f"tasks.{stage}"]
    return subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def contents(*folders: Path) -> dict[str, bytes]:
    """Return every file of the folders by name, with its bytes."""
    return {
        f"{folder.name}/{path.relative_to(folder)}": path.read_bytes()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
