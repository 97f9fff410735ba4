"""A version taken elsewhere: merged into its base, served by vLLM, uploaded to a (small) Hub."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tasks.core.files import pretty_json, sha256_file, write_manifest
from tasks.registry.gate.gate import GateConfig
from tasks.registry.release.release import register
from tasks.registry.versions.manifest import ADAPTER_CONFIG, LINEAGE, WEIGHTS, Candidate
from tasks.registry.versions.registry import Registry
from tests.registry.samples import sample
from tests.registry.small_hub import Hub, serving

DIGEST = "b" * 64


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The output of the base stage, with a tiny bfloat16 model in it and a tokenizer."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    torch.manual_seed(0)
    shape = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    folder = tmp_path / "base"
    LlamaForCausalLM(shape).bfloat16().save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(64)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(folder)
    write_manifest(folder, {"stage": "base", "kind": "demo", "source": "demo", "revision": None, "digest": DIGEST})
    return folder


@pytest.fixture
def released(registry: Registry, base: Path, tmp_path: Path) -> str:
    """A version of a real adapter on that base, champion."""
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=12, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    whole, evidence = sample(base=DIGEST)
    saved = {name: tmp_path / "adapter" / name for name in (WEIGHTS, ADAPTER_CONFIG)}
    identity = dataclasses.replace(
        whole.identity, weights=sha256_file(saved[WEIGHTS]), adapter_config=sha256_file(saved[ADAPTER_CONFIG])
    )
    papers: dict[str, Any] = json.loads(whole.files[LINEAGE])
    papers["base"] = {"kind": "hub", "source": "Qwen/Qwen2.5-3B", "revision": "c" * 40, "digest": DIGEST}
    candidate = Candidate(identity, {**whole.files, **saved, LINEAGE: pretty_json(papers).encode()})
    evidence = dataclasses.replace(evidence, version=candidate.digest)
    return register(registry, candidate, evidence, "champion", GateConfig()).digest


def test_a_merged_checkpoint_answers_as_base_and_adapter_do(command, registry, base: Path, released: str, tmp_path):
    target = tmp_path / "merged"
    status, out, error = command("export-merged", "demo@champion", str(target), "--base", str(base))
    assert (status, "error:" in error) == (0, False)
    assert "AutoModelForCausalLM.from_pretrained(" in out
    registry.pull(released, tmp_path / "pulled")
    tokens = torch.randint(0, 64, (2, 9))
    plain = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    whole = AutoModelForCausalLM.from_pretrained(target, dtype="auto")
    assert whole.dtype == torch.bfloat16, "in the type of the base's files"
    with torch.no_grad():
        reference = plain(tokens).logits
        expected = PeftModel.from_pretrained(plain, tmp_path / "pulled").eval()(tokens).logits
        logits = whole.float()(tokens).logits
    assert (logits - expected).abs().max() < 0.1 * (expected - reference).abs().max()
    assert (target / "tokenizer.json").is_file()
    assert json.loads((target / "manifest.json").read_bytes())["version"] == released


def test_another_base_is_refused_and_a_folder_that_holds_something_is_left(command, base: Path, released, tmp_path):
    about = {"stage": "base", "kind": "demo", "source": "demo", "revision": None, "digest": "9" * 64}
    (base / "manifest.json").unlink()
    write_manifest(base, about)
    status, _, error = command("export-merged", "demo", str(tmp_path / "m"), "--base", str(base))
    assert status == 1
    assert f"is the base 999999999999, version {released[:12]} was trained on bbbbbbbbbbbb" in error
    assert not (tmp_path / "m").exists()
    status, _, error = command("export-merged", "demo", str(base), "--base", str(base))
    assert "is not an empty folder" in error


def test_the_vllm_line_serves_the_pulled_folder_with_a_rank_that_it_knows(command, released: str, tmp_path: Path):
    target = tmp_path / "served"
    status, out, _ = command("export-vllm", "demo@champion", str(target))
    assert status == 0
    words = shlex.split(out)
    assert words[:3] == ["vllm", "serve", "Qwen/Qwen2.5-3B"]
    assert words[words.index("--revision") + 1] == "c" * 40
    assert words[words.index("--max-lora-rank") + 1] == "16"
    assert words[words.index("--lora-modules") + 1] == f"demo={target}"
    assert (target / ADAPTER_CONFIG).is_file()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    with serving() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", running.url, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_sesame")
        yield running


def test_a_version_is_uploaded_to_the_hub_whole(command, registry: Registry, released: str, hub: Hub):
    status, out, error = command("export-hub", "demo@champion", "team/demo-adapter", "--private", "--json")
    assert (status, "error:" in error) == (0, False)
    assert out["repository"] == "team/demo-adapter"
    assert hub.created == [{"name": "demo-adapter", "organization": "team", "private": True}]
    assert set(hub.files) == {*registry.read(released).files, "manifest.json"}
    for name in (WEIGHTS, ADAPTER_CONFIG, "README.md"):
        assert hub.files[name] == registry.read_file(released, name)
    assert released[:12] in hub.summaries[0]


def test_a_hub_that_refuses_or_is_not_there_is_told_in_a_line(command, released: str, hub: Hub, monkeypatch):
    hub.status = 403
    status, _, error = command("export-hub", "demo", "team/demo-adapter")
    assert (status, "set HF_TOKEN to a token that may write there" in error) == (1, True)
    assert "sesame" not in error
    status, _, error = command("export-hub", "demo", "no such/name/at all")
    assert (status, "write OWNER/NAME" in error) == (1, True)
    hub.status = None
    for place in ("huggingface_hub.constants.ENDPOINT", "huggingface_hub.hf_api.ENDPOINT"):
        monkeypatch.setattr(place, "http://127.0.0.1:9", raising=False)
    status, _, error = command("export-hub", "demo", "team/demo-adapter")
    assert status == 1
    assert error.splitlines()[-1].startswith("[registry] error: ")
    assert "the Hub (http://127.0.0.1:9) does not answer for team/demo-adapter" in error
