"""What the tests of the stage respond share: the real stories260K base, a random adapter, and prompts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks import respond
from tasks.core.base_model import BaseModel
from tasks.core.files import (
    digest_of,
    pretty_json,
    sha256_file,
    write_manifest,
    write_text,
)
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.model.adapter import LoraSettings, attach_lora
from tasks.dpo.model.base_loading import load_base
from tasks.dpo.training.adapter_saving import save_adapter
from tasks.respond import RespondConfig
from tests.stages import project

CONFIG = RespondConfig(
    max_prompts=None,
    samples_per_prompt=1,
    temperature=0.8,
    top_p=0.95,
    max_new_tokens=12,
    batch_tokens=100,
    seed=0,
)
RUNTIME = RuntimeConfig(device="cpu")
OPENINGS = ("Once upon a time", "Lily", "One day, a big dog named Max", "The sun was", "Tom and Sue went to the park.")
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The folders that the stage reads, and those that it writes."""

    tokens: Path
    base: Path
    adapter: Path
    champion: Path
    out: Path
    work: Path

    def run(self, config: RespondConfig = CONFIG) -> dict[str, Any]:
        folders = respond.Folders(self.tokens, self.base, self.adapter, self.champion, self.out, self.work)
        return respond.run(folders, config, RUNTIME)

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "responses.jsonl").read_text().split("\n") if line]


@pytest.fixture(scope="session")
def pinned(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pins the real model where it lies."""
    source, folder = shared / "models" / "stories260K", tmp_path_factory.mktemp("base")
    files = {
        name: {"sha256": sha256_file(source / name), "size": (source / name).stat().st_size} for name in MODEL_FILES
    }
    about = {"stage": "base", "kind": "local", "source": str(source), "revision": None, "model_files": files}
    write_manifest(folder, {**about, "digest": digest_of(files)})
    return folder


@pytest.fixture(scope="session")
def policy(pinned: Path) -> Any:
    """The base with an adapter of random weights, large enough to be felt."""
    model = attach_lora(load_base(BaseModel.open(pinned)), LoraSettings(rank=4, alpha=8), seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def adapter(policy: Any, pinned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(policy, folder, BaseModel.open(pinned))
    write_manifest(folder, {"stage": "train"})
    return folder


@pytest.fixture(scope="session")
def tokens(pinned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("tokens"), BaseModel.open(pinned).load_tokenizer()
    rows = [
        {"prompt_id": f"id{i}", "question": text, "ids": tokenizer(text)["input_ids"]}
        for i, text in enumerate(OPENINGS)
    ]
    write_text(folder / "prompts.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    period = tokenizer(".", add_special_tokens=False)["input_ids"][-1]  # so that answers end: this base never says </s>
    write_text(
        folder / "template.json", pretty_json({"kind": "none", "template": None, "eos_token_ids": [2, 1, period]})
    )
    write_manifest(folder, {"stage": "encode"})
    return folder


def inputs_in(folder: Path, tokens: Path, pinned: Path, adapter: Path) -> Inputs:
    project.write_no_adapter(folder / "champion")
    return Inputs(tokens, pinned, adapter, folder / "champion", folder / "responses", folder / "work")


@pytest.fixture
def inputs(tokens: Path, pinned: Path, adapter: Path, tmp_path: Path) -> Inputs:
    return inputs_in(tmp_path, tokens, pinned, adapter)
