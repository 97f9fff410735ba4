"""What the registry gives back is what was trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.core.files import sha256_file
from tasks.registry.gate.gate import GateConfig
from tasks.registry.release.release import register
from tasks.registry.versions.manifest import ADAPTER_CONFIG, WEIGHTS, Candidate
from tasks.registry.versions.registry import Registry
from tests.registry.samples import sample


def test_a_pulled_adapter_loads_with_peft_and_gives_the_same_logits(registry: Registry, tmp_path: Path):
    torch.manual_seed(0)
    shape = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    base = LlamaForCausalLM(shape)
    base.save_pretrained(tmp_path / "base")
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    policy = get_peft_model(base, config)
    policy.save_pretrained(tmp_path / "adapter")
    tokens = torch.randint(0, 64, (2, 9))
    with torch.no_grad():
        expected = policy.eval()(tokens).logits
        with policy.disable_adapter():
            reference = policy(tokens).logits
    assert not torch.equal(expected, reference)

    whole, evidence = sample()
    saved = {name: tmp_path / "adapter" / name for name in (WEIGHTS, ADAPTER_CONFIG)}
    identity = dataclasses.replace(
        whole.identity, weights=sha256_file(saved[WEIGHTS]), adapter_config=sha256_file(saved[ADAPTER_CONFIG])
    )
    candidate = Candidate(identity, {**whole.files, **saved})
    evidence = dataclasses.replace(evidence, version=candidate.digest)
    done = register(registry, candidate, evidence, "champion", GateConfig())
    registry.pull(registry.find("champion"), tmp_path / "pulled")

    fresh = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    loaded = PeftModel.from_pretrained(fresh, tmp_path / "pulled").eval()
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, expected)
    assert done.is_promoted
