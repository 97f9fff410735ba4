"""A base in four bits: the reference, the training and the saved adapter all stand on the very same weights.

bitsandbytes is yours to install; without it only the refusals are tested.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from tasks.core.base_model import BaseModel
from tasks.core.errors import ConfigError
from tasks.dpo.model import quantization
from tasks.dpo.model.adapter import adapter_parameters, attach_lora
from tasks.dpo.model.base_loading import load_base
from tasks.dpo.scoring.scorer import Mechanisms, Scorer
from tasks.dpo.training.adapter_saving import save_adapter
from tests.dpo import tiny

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A tiny llama on disk, pinned in four bits."""
    folder = tmp_path_factory.mktemp("base")
    # the rows of bitsandbytes' CPU kernels are blocks of 64 weights
    tiny.base("llama", hidden_size=64, intermediate_size=128).save_pretrained(folder)
    return BaseModel("local", str(folder), None, "0" * 64, str(folder), "nf4")


def policy(base: BaseModel) -> Any:
    return attach_lora(load_base(base), tiny.LORA, 1)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 23)[None]).logits


def test_a_base_in_full_precision_is_loaded_as_ever(base: BaseModel):
    plain = dataclasses.replace(base, quantise="none")
    assert quantization.loading_options(plain, "cpu", torch.float32) == {}
    assert {parameter.dtype for parameter in load_base(plain).parameters()} == {torch.float32}


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_without_bitsandbytes_it_is_named_with_the_command_that_installs_it(base: BaseModel):
    with pytest.raises(ConfigError, match=r"bitsandbytes is not installed — `pip install 'bitsandbytes>=0.48'`"):
        load_base(base)


@needs_bitsandbytes
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_where_bitsandbytes_does_not_work_its_own_words_are_told(base: BaseModel):
    with pytest.raises(ConfigError, match=r"bitsandbytes does not work on cuda here \(.+\) — `pip install"):
        load_base(base, "cuda")


def test_a_quantised_base_is_not_sharded(base: BaseModel):
    with pytest.raises(ConfigError, match=r"`runtime.sharding` would shard .*, and the base is quantised"):
        load_base(base, is_sharded=True)


@needs_bitsandbytes
def test_linear_layers_are_in_four_bits_and_the_head_is_not(base: BaseModel):
    model = load_base(base)
    layer = model.model.layers[0]
    assert layer.mlp.up_proj.weight.dtype == torch.uint8
    assert layer.mlp.up_proj.weight.numel() == 64 * 128 // 2
    assert model.lm_head.weight.dtype == layer.input_layernorm.weight.dtype == torch.float32
    whole = logits(load_base(dataclasses.replace(base, quantise="none")))
    assert 1e-3 < float((logits(model) - whole).abs().max()) < float(whole.abs().max())


@needs_bitsandbytes
def test_lean_layers_give_what_pefts_own_give_and_their_gradients(base: BaseModel):
    model = tiny.moved(policy(base))
    rows = [tiny.pairs(3).row(i) for i in range(3)]
    actual = []
    for is_lean in (False, True):
        model.zero_grad(set_to_none=True)
        with Scorer(model, rows, Mechanisms(lean_lora=is_lean)) as scorer:
            assert scorer.is_shared
            layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
            assert [type(layer).__name__.startswith("Lean") for layer in layers] == [is_lean] * len(layers)
            logps = scorer.logps(scorer.lay_out(rows))
            logps.sum().backward()
        actual.append([logps.detach(), *(parameter.grad for parameter in adapter_parameters(model))])
    for a, b in zip(*actual, strict=True):
        assert float((a - b).abs().max() / b.abs().max()) < 1e-4


@needs_bitsandbytes
def test_training_starts_at_ln_2_on_the_quantised_weights_and_learns(base: BaseModel):
    model = policy(base)
    before = [p.clone() for p in model.parameters() if p.dtype == torch.uint8]
    config = tiny.config(learning_rate=5e-3, pairs_per_step=8, epochs=3, lora=tiny.LORA)
    result, _ = tiny.run(tiny.pairs(16), config, tiny.budget(512), model=model)
    assert result.before["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert result.steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert all(math.isfinite(row["grad_norm"]) and row["grad_norm"] > 0 for row in result.steps)
    assert result.steps[-1]["loss"] < 0.6
    after = [p for p in model.parameters() if p.dtype == torch.uint8]
    assert len(before) == 14
    assert all(map(torch.equal, before, after))


@needs_bitsandbytes
def test_the_adapter_that_is_saved_gives_the_same_logits_on_the_quantised_base(base: BaseModel, tmp_path: Path):
    model = tiny.moved(policy(base))
    save_adapter(model, tmp_path, base)
    loaded = PeftModel.from_pretrained(load_base(base), str(tmp_path))
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.allclose(logits(loaded), logits(load_base(base)), atol=1e-2)
