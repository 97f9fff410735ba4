"""What the README shows works: its Python snippet runs as it stands, on a small model and data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.conftest import ROOT


def snippet() -> str:
    """Return the README's Python block."""
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block
    return block[1]


def test_the_snippet_has_at_most_twenty_lines() -> None:
    assert len([line for line in snippet().splitlines() if line.strip()]) <= 20


def test_the_snippet_trains_and_loads_again(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = str(shared / "models/stories260K")
    data = shared / "preferences/blimp-minimal-pairs/pairs.jsonl.gz"
    code, small_data = snippet(), f'load_dataset("json", data_files={str(data)!r}, split="train[:160]")'
    for written, small in {
        '"Qwen/Qwen2.5-3B"': repr(base),
        'load_dataset("HumanLLMs/Human-Like-DPO-Dataset", split="train")': small_data,
        'text_as="chat"': 'text_as="completion"',  # the small base has no chat template
    }.items():
        assert written in code
        code = code.replace(written, small)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert re.search(r"^0\.5 -> [01]\.\d+$", capsys.readouterr().out, re.MULTILINE)
    ids = torch.arange(20)[None]
    policy = names["policy"]
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), "adapter")
    with torch.no_grad():
        trained = policy(input_ids=ids).logits  # type: ignore[operator]
        assert torch.allclose(trained, again(input_ids=ids).logits, atol=1e-6)
        bare = AutoModelForCausalLM.from_pretrained(base)(input_ids=ids).logits
        assert (trained - bare).abs().max() > 0
