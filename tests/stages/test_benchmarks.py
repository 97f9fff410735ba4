"""The benchmarks stage: nothing asked for costs nothing; tasks of one's own are scored without and with the adapter."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tasks import benchmarks
from tasks.benchmarks import BenchmarksConfig, Folders
from tasks.core.base_model import BaseModel
from tasks.core.errors import ConfigError, PipelineError
from tasks.core.files import atomic_folder, digest_of, sha256_file, write_manifest
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.model.adapter import LoraSettings, attach_lora
from tasks.dpo.model.base_loading import load_base
from tasks.dpo.training.adapter_saving import save_adapter
from tasks.harness.before_and_after import Change, greatest_drop
from tests.conftest import ROOT
from tests.stages import project

TASK = """
task: lamps
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""


MODEL_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def change(before: float, after: float, sign: int | None = 1) -> Change:
    return Change(10, before, after, None, None, None if sign is None else sign * (before - after))


def test_the_greatest_drop_is_that_of_the_metric_that_fell_most() -> None:
    assert greatest_drop({"a": {"acc": change(0.5, 0.4), "f1": change(0.5, 0.6)}, "b": {"acc": change(0.9, 0.7)}}) == (
        pytest.approx(0.2)
    )
    assert greatest_drop({"a": {"acc": change(0.5, 0.6)}}) == pytest.approx(-0.1)
    assert greatest_drop({"a": {"perplexity": change(3.0, 5.0, sign=-1)}}) == pytest.approx(2.0)
    assert greatest_drop({"a": {"odd": change(3.0, 5.0, sign=None)}}) == 0.0


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """A pinned base and a finished training, of which nothing is read unless there is something to score."""
    project.write_base(tmp_path)
    with atomic_folder(tmp_path / "models/adapter", {"stage": "train"}):
        pass
    return Folders(tmp_path / "data/base", tmp_path / "models/adapter", tmp_path / "out")


def test_without_tasks_no_model_is_loaded(folders: Folders) -> None:
    code = (
        "import sys; from pathlib import Path; from tasks import benchmarks as b; from tasks.core.runtime import *;"
        "b.run(b.Folders(*map(Path, sys.argv[1:])), b.BenchmarksConfig((), None, None), RuntimeConfig());"
        "assert not {'torch', 'transformers', 'lm_eval'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, *dataclasses.astuple(folders)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((folders.out / "metrics.json").read_text()) == {"greatest_drop": None, "tasks": {}}


def test_a_missing_harness_is_named_with_the_way_to_get_it(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match=r"needs lm-evaluation-harness .* — run `pip install -e .\[benchmarks\]`"):
        benchmarks.run(folders, BenchmarksConfig(("arc_easy",), None, None), RuntimeConfig())
    assert not folders.out.exists()


@pytest.fixture
def definitions(tmp_path: Path) -> Path:
    """A folder with one task: of two ends of a sentence, one is right."""
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness (extra `benchmarks`) is not installed")
    folder = tmp_path / "definitions"
    folder.mkdir()
    rows = [{"question": f"Lamp {i} is", "choices": [" broken", " green"], "answer": i % 2} for i in range(12)]
    (folder / "lamps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "lamps.yaml").write_text(TASK.format(file=folder / "lamps.jsonl"))
    return folder


@pytest.fixture
def scored(shared: Path, tmp_path: Path) -> Folders:
    """A real model that is pinned where it lies, with an adapter of random weights, large enough to be felt."""
    source, pinned, adapter = shared / "models" / "stories260K", tmp_path / "base", tmp_path / "adapter"
    pinned.mkdir()
    adapter.mkdir()
    files = {
        name: {"sha256": sha256_file(source / name), "size": (source / name).stat().st_size} for name in MODEL_FILES
    }
    about = {"stage": "base", "kind": "local", "source": str(source), "revision": None, "model_files": files}
    write_manifest(pinned, {**about, "digest": digest_of(files)})

    base = BaseModel.open(pinned)
    policy = attach_lora(load_base(base), LoraSettings(rank=4, alpha=8), seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    save_adapter(policy, adapter, base)
    write_manifest(adapter, {"stage": "train"})
    return Folders(pinned, adapter, tmp_path / "out")


def test_a_task_of_ones_own_is_scored_before_and_after(scored: Folders, definitions: Path) -> None:
    config = BenchmarksConfig(("lamps",), str(definitions), 10)
    result = benchmarks.run(scored, config, RuntimeConfig(device="cpu"))
    scores = result["tasks"]["lamps"]["acc,none"]
    assert scores["examples"] == 10
    assert 0 <= scores["before"] <= 1
    assert 0 <= scores["after"] <= 1
    assert result["greatest_drop"] == pytest.approx(scores["before"] - scores["after"])
    assert scores["before_se"] > 0


def test_a_task_that_does_not_exist_is_refused(scored: Folders, definitions: Path) -> None:
    config = BenchmarksConfig(("lamps_and_lights",), str(definitions), None)
    with pytest.raises(PipelineError, match=r"names 'lamps_and_lights', which the harness does not know"):
        benchmarks.run(scored, config, RuntimeConfig(device="cpu"))
