"""Run the stages from the base to the answers in a folder; with `without`, no observer's code is there.

run as: python -m tests.stages.observers_script FOLDER with|without
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import json
import os
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.rules.closure import OBSERVERS

SECTIONS: dict[str, dict[str, Any]] = {
    "ingest": {"sources": ["pairs.jsonl"]},
    "train": {"pairs_per_step": 8, "evaluations": 2, "lora": {"rank": 2, "alpha": 4}},
    "respond": {"max_prompts": 4, "max_new_tokens": 6},
}


class Nothing:
    """What every name of an observer is: it takes every call and gives nothing."""

    def __call__(self, *_: object, **__: object) -> Nothing:
        return self

    def __getattr__(self, name: str) -> Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __enter__(self) -> Nothing:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __getitem__(self, key: object) -> Nothing:
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def keys(self) -> tuple[str, ...]:
        return ()


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives an empty package for every module of an observer's room."""

    rooms = tuple(room.replace("/", ".") for room in OBSERVERS)

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if name in self.rooms or name.startswith(tuple(f"{room}." for room in self.rooms)):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        nothing = Nothing()
        module.__getattr__ = lambda name: getattr(nothing, name)  # type: ignore[method-assign]


def run_stages() -> None:
    """Run them in the current folder."""
    from tasks.core.params import build, load_params
    from tasks.core.pinned_adapter import PinnedAdapter
    from tasks.core.runtime import RuntimeConfig
    from tasks.demo.preferences.preferences import demo_rows
    from tests.demo.tiny_demo import TINY

    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in demo_rows(60, 0)))
    document = load_params(ROOT / "params.yaml")
    for section, values in SECTIONS.items():
        document[section] |= values

    owners = {"encode": ("tasks.pairs.encoding.encoder", "EncodeConfig")}
    owners["train"] = ("tasks.dpo.training.train_config", "TrainConfig")
    runtime = RuntimeConfig(device="cpu", tokens_per_micro_batch=1024)
    for name in ("base", "ingest", "encode", "adapters", "reference", "train", "respond"):
        stage = importlib.import_module(f"tasks.{name}")
        if name == "adapters":
            stage.run(stage.Folders(), stage.AdaptersConfig())
            assert PinnedAdapter.open(stage.Folders().init, "") is None
            continue
        module, owner = owners.get(name, (f"tasks.{name}", f"{name.title()}Config"))
        config = build(getattr(importlib.import_module(module), owner), document[name], name)
        more = {"base": [TINY], "reference": [runtime], "train": [runtime], "respond": [runtime]}.get(name, [])
        stage.run(stage.Folders(), config, *more)


if __name__ == "__main__":
    if sys.argv[2] == "without":
        sys.meta_path.insert(0, StandIns())
    os.chdir(Path(sys.argv[1]))
    run_stages()
    loaded = sys.modules["tasks.telemetry.log"]
    print("stand-ins" if sys.argv[2] == "without" and not getattr(loaded, "__file__", None) else "observers")
