"""The policy: seeded, saved in PEFT's format with the same bytes each time, and loaded again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from tasks.core.base_model import BaseModel
from tasks.core.errors import ArtifactError, ConfigError
from tasks.dpo.model.adapter import LoraSettings, adapter_parameters, attach_lora
from tasks.dpo.model.base_loading import load_base
from tasks.dpo.training.adapter_saving import save_adapter
from tests.dpo import tiny

IDS = torch.arange(3, 23)[None]


def saved_base(folder: Path, family: str = "llama") -> BaseModel:
    tiny.base(family).save_pretrained(folder)
    return BaseModel("local", str(folder), None, "0" * 64, str(folder))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_peft_loads_what_was_saved_and_gives_the_same_logits(family: str, tmp_path: Path):
    base = saved_base(tmp_path / "base", family)
    model = tiny.moved(attach_lora(load_base(base), tiny.LORA, 1))
    (tmp_path / "adapter").mkdir()
    save_adapter(model, tmp_path / "adapter", base)
    loaded = PeftModel.from_pretrained(load_base(base), str(tmp_path / "adapter"))
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.allclose(logits(loaded), logits(load_base(base)), atol=1e-2)
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base.location
    assert (config["r"], config["lora_alpha"], config["inference_mode"]) == (4, 8, True)


def test_peft_loads_a_trained_adapter_and_gives_the_same_logits(tmp_path: Path):
    _, model = tiny.run(tiny.pairs(8), tiny.config(pairs_per_step=4, learning_rate=1e-2, lora=tiny.LORA))
    tiny.adapter_bytes(model, tmp_path)
    loaded = PeftModel.from_pretrained(tiny.base(), str(tmp_path))
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.allclose(logits(loaded), logits(tiny.base()), atol=1e-3)


def test_an_adapter_on_the_head_is_saved_without_the_base_s_embeddings(tmp_path: Path):
    lora = LoraSettings(rank=4, alpha=8, target_modules=("lm_head", "q_proj"))
    model = tiny.moved(tiny.policy(lora=lora))
    tiny.adapter_bytes(model, tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 12_000
    assert torch.equal(logits(PeftModel.from_pretrained(tiny.base(), str(tmp_path))), logits(model))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path):
    torch.manual_seed(1)
    one = tiny.adapter_bytes(tiny.policy(seed=5), tmp_path / "a")
    torch.manual_seed(2)
    assert tiny.adapter_bytes(tiny.policy(seed=5), tmp_path / "b") == one
    other = tiny.adapter_bytes(tiny.policy(seed=6), tmp_path / "c")
    assert (other[0] != one[0], other[1] == one[1]) == (True, True)


def test_seeding_the_adapter_leaves_the_global_generator_alone():
    model = tiny.base()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    attach_lora(model, tiny.LORA, 9)
    assert torch.equal(torch.rand(2), expected)


def test_a_saved_adapter_holds_no_pickle(tmp_path: Path):
    tiny.adapter_bytes(tiny.policy(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert not any(path.read_bytes().startswith((b"\x80", b"PK")) for path in tmp_path.iterdir())


def test_a_fresh_adapter_changes_nothing():
    assert torch.equal(logits(tiny.policy()), logits(tiny.base()))


def test_only_adapters_are_trainable_and_they_are_float32():
    model = attach_lora(tiny.base().bfloat16(), tiny.LORA, 1)
    assert {p.dtype for p in adapter_parameters(model)} == {torch.float32}
    assert {p.dtype for name, p in model.named_parameters() if "lora_" not in name} == {torch.bfloat16}
    assert len(adapter_parameters(model)) == 2 * 7 * 2  # A and B of seven linear layers in each of two blocks
    assert not any(p.requires_grad for name, p in model.named_parameters() if "lora_" not in name)


@pytest.mark.parametrize("names", [("q_porj",), ("q_proj", "v_porj")], ids=["all wrong", "one wrong"])
def test_a_layer_that_does_not_exist_is_refused_by_name(names: tuple[str, ...]):
    with pytest.raises(ConfigError, match=r"`train.lora.target_modules`.*_porj"):
        tiny.policy(lora=LoraSettings(target_modules=names))


def test_named_layers_alone_are_adapted():
    model = tiny.policy(lora=LoraSettings(rank=2, target_modules=("q_proj", "mlp.down_proj")))
    assert len(adapter_parameters(model)) == 2 * 2 * 2


@pytest.mark.parametrize(
    ("key", "value"), [("rank", 0), ("alpha", 0), ("dropout", 1.0), ("dropout", -0.1)], ids=lambda value: str(value)
)
def test_a_shape_out_of_range_is_refused(key: str, value: float):
    with pytest.raises(ConfigError, match=f"`train.lora.{key}` is {value}"):
        LoraSettings(**{key: value})


def test_a_base_that_does_not_load_is_told_in_one_line(tmp_path: Path):
    base = saved_base(tmp_path / "base")
    whole = (tmp_path / "base/model.safetensors").read_bytes()
    for damage in (whole[:1000], b"", b"\x80\x04pickle"):
        (tmp_path / "base/model.safetensors").write_bytes(damage)
        with pytest.raises(ArtifactError, match="does not load"):
            load_base(base)
    (tmp_path / "base/model.safetensors").unlink()
    with pytest.raises(ArtifactError, match="does not load"):
        load_base(base)


def test_a_base_without_weights_for_its_head_is_refused(tmp_path: Path):
    # transformers would fill them with random numbers and go on
    tiny.base().model.save_pretrained(tmp_path / "base")
    base = BaseModel("local", "some/model", None, "0" * 64, str(tmp_path / "base"))
    with pytest.raises(ArtifactError, match=r"some/model has no weights for lm_head.weight, which would be random"):
        load_base(base)


def test_tied_embeddings_need_no_head_of_their_own(tmp_path: Path):
    tiny.base("qwen2", tie_word_embeddings=True).save_pretrained(tmp_path / "base")
    model = load_base(BaseModel("local", "m", None, "0" * 64, str(tmp_path / "base")))
    assert model.lm_head.weight is model.model.embed_tokens.weight
