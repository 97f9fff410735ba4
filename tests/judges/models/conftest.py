"""A small project for judges that are models: made-up pairs, a tiny base, their tokens."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tasks import base, encode, ingest
from tasks.base import BaseConfig
from tasks.core.params import build, load_params
from tasks.core.runtime import RuntimeConfig
from tasks.ingest import IngestConfig
from tasks.judges.choice.config import WinrateConfig
from tasks.judges.models.model_choices import ModelPlace
from tasks.pairs.encoding.encoder import EncodeConfig
from tests.conftest import ROOT
from tests.demo.tiny_demo import tiny

THINGS = ("lamp", "kettle", "radio", "fan", "clock", "printer", "drill", "phone", "camera", "heater")
FAULTS = ("hums", "leaks", "is late", "smells", "is cracked", "turns off", "has no cable", "rattles")
KIND = ("We will send a new {thing} today", "Thank you for telling us about the {thing}", "Leave the {thing} to me")
CURT = ("Read the manual of your {thing}", "Nobody else has this with a {thing}", "Stop going on about the {thing}")
ENDINGS = ("and it is with you tomorrow.", "as the order says.", "when the shop is open again.", "for the next days.")


def made_up_pairs(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Pairs of one meaning: a kind reply is chosen over a curt one, whatever it speaks of."""
    draw = random.Random(seed)

    def reply(openings: tuple[str, ...], thing: str) -> str:
        return f"{draw.choice(openings).format(thing=thing)} {draw.choice(ENDINGS)}"

    rows = []
    for number in range(count):
        thing, fault = draw.choice(THINGS), draw.choice(FAULTS)
        prompt = f"My {thing} of order {number} {fault}. What now?"
        rows.append({"prompt": prompt, "chosen": reply(KIND, thing), "rejected": reply(CURT, thing)})
    return rows


def winrate_config(**changes: Any) -> WinrateConfig:
    """The section as params.yaml has it, with changes."""
    return build(WinrateConfig, {**load_params(ROOT / "params.yaml")["winrate"], **changes}, "winrate")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> ModelPlace:
    """What the stages before `qualify` write, for 160 made-up pairs; nothing is qualified yet."""
    root = tmp_path_factory.mktemp("models")
    source = write_jsonl(root / "pairs.jsonl", made_up_pairs(160))
    ingest.run(ingest.Folders(root / "pairs"), IngestConfig((str(source),), test_share=0.3))
    base.run(base.Folders(root / "base"), BaseConfig(), tiny(steps=4))
    config = EncodeConfig(text_as="chat")
    encode.run(encode.Folders(root / "pairs", root / "base", root / "tokens"), config)
    runtime = RuntimeConfig(row_store=str(root / "rows"), device="cpu")
    return ModelPlace(root / "pairs", root / "tokens", root / "base", root / "qualification", runtime)


@pytest.fixture
def place(project: ModelPlace, tmp_path: Path) -> ModelPlace:
    """The project with folders of this test's own for what is fitted and stored."""
    runtime = dataclasses.replace(project.runtime, row_store=str(tmp_path / "rows"))
    (tmp_path / "qualification").mkdir()
    return dataclasses.replace(project, qualification=tmp_path / "qualification", runtime=runtime)
