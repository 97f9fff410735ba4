"""Bases that cannot be used are refused by the base stage in one line, and following its advice helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import base
from tasks.base import BaseConfig
from tasks.core.base_model import BaseModel
from tasks.core.end_ids import end_ids
from tasks.core.errors import ArtifactError, DataError
from tasks.dpo.model.base_loading import load_base
from tasks.pairs.encoding.base_tokenizer import generation_eos
from tasks.pinning.model_weights import check_weights
from tests.stages.hub_server import Hub, serving
from tests.stages.test_base import COMMIT, NAME, one_error, read, run_stage

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def pin(tmp_path: Path, model: Path) -> dict[str, Any]:
    return base.run(base.Folders(tmp_path / "base"), BaseConfig(str(model)))


def edit(path: Path, **values: object) -> None:
    settings = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**settings, **values}))


def refused(tmp_path: Path, model: Path, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        pin(tmp_path, model)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "base").exists()


# an adapter beside the weights, and other copies of them


def test_an_adapter_beside_the_weights_is_refused_and_moving_it_away_helps(model: Path, tmp_path: Path) -> None:
    before = pin(tmp_path, model)
    edit(model / "adapter_config.json", peft_type="LORA")
    (tmp_path / "base").rename(tmp_path / "earlier")
    refused(tmp_path, model, "adapter_config.json beside whole weights.*train.init_adapter")
    with pytest.raises(ArtifactError, match=r"adapter_config.json beside its weights"):
        BaseModel.open(tmp_path / "earlier")
    (model / "adapter_config.json").rename(tmp_path / "adapter_config.json")
    assert pin(tmp_path, model) == before


def test_an_adapter_alone_is_refused_as_one(model: Path, tmp_path: Path) -> None:
    edit(model / "adapter_config.json", peft_type="LORA")
    (model / "model.safetensors").rename(model / "adapter_model.safetensors")
    refused(tmp_path, model, "is an adapter .*train.init_adapter")


def test_only_the_weights_that_transformers_loads_are_counted_and_hashed(model: Path, tmp_path: Path) -> None:
    pin(tmp_path / "a", model)
    for name in (
        "consolidated.safetensors",
        "model.fp16.safetensors",
        "adapter_model.safetensors",
        "optim.safetensors",
    ):
        (model / name).write_bytes((model / "model.safetensors").read_bytes())
    for name in ("trainer_state.json", "all_results.json", "pytorch_model.bin.index.json"):
        (model / name).write_text("{}")
    assert pin(tmp_path / "b", model)["parameters"] == 260032
    assert read(tmp_path / "a/base") == read(tmp_path / "b/base")


def test_a_variant_alone_is_refused_and_renaming_it_helps(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").rename(model / "model.fp16.safetensors")
    refused(
        tmp_path,
        model,
        "model.fp16.safetensors, which transformers does not load.*rename the file",
    )
    (model / "model.fp16.safetensors").rename(model / "model.safetensors")
    assert pin(tmp_path, model)["parameters"] == 260032


def test_the_shards_of_the_index_are_the_weights(model: Path, tmp_path: Path) -> None:
    shard = "model-00001-of-00001.safetensors"
    (model / "consolidated.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    (model / "model.safetensors").rename(model / shard)
    edit(model / "model.safetensors.index.json", weight_map={"a": shard}, metadata={})
    assert pin(tmp_path, model)["parameters"] == 260032
    names = set(read(tmp_path / "base")[0]["model_files"])
    assert {shard, "model.safetensors.index.json"} <= names
    assert "consolidated.safetensors" not in names
    edit(model / "model.safetensors.index.json", weight_map=[shard])
    (tmp_path / "base").rename(tmp_path / "earlier")
    refused(tmp_path, model, "has no `weight_map` of file names")


@pytest.fixture
def sharded(model: Path) -> Path:
    (model / "consolidated.safetensors").write_bytes(b"a second copy")
    (model / "model.safetensors").rename(model / "model-1.safetensors")
    edit(model / "model.safetensors.index.json", weight_map={"a": "model-1.safetensors"}, metadata={})
    (model / "trainer_state.json").write_text("{}")
    return model


def hub_run(tmp_path: Path, folder: Path) -> tuple[Hub, Any]:
    with serving(NAME, COMMIT, folder) as hub:
        return hub, run_stage(tmp_path / "p", hub.url, NAME, COMMIT)


def test_of_a_hub_model_only_what_is_loaded_is_fetched(sharded: Path, tmp_path: Path) -> None:
    hub, done = hub_run(tmp_path, sharded)
    assert done.returncode == 0, done.stderr
    assert hub.downloads() == set(read(tmp_path / "p/data/base")[0]["model_files"])
    assert not hub.downloads() & {"consolidated.safetensors", "trainer_state.json"}


def test_a_hub_repository_with_an_adapter_is_refused_before_a_download(sharded: Path, tmp_path: Path) -> None:
    edit(sharded / "adapter_config.json", peft_type="LORA")
    hub, done = hub_run(tmp_path, sharded)
    assert "org/tiny has adapter_config.json beside whole weights" in one_error(done, tmp_path / "p")
    assert hub.downloads() == set()


def test_a_hub_model_with_a_config_that_does_not_load_costs_no_weights(sharded: Path, tmp_path: Path) -> None:
    edit(sharded / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    hub, done = hub_run(tmp_path, sharded)
    assert "quantised already" in one_error(done, tmp_path / "p")
    assert "model-1.safetensors" not in hub.downloads()


# files that are not there, and values that do not load


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "generation_config.json", "tokenizer.model"])
def test_a_pointer_of_git_lfs_is_refused_by_name(model: Path, tmp_path: Path, name: str) -> None:
    (model / name).write_text(POINTER)
    refused(tmp_path, model, f"{name} is a pointer of Git LFS.*git lfs pull")


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "generation_config.json", "model.safetensors"])
def test_a_link_without_its_target_is_refused_by_name(model: Path, tmp_path: Path, name: str) -> None:
    (model / name).unlink()
    (model / name).symlink_to("../../blobs/0123")
    refused(tmp_path, model, f"{name} is a link to ../../blobs/0123, where no file is")


WRONG = {
    "bitsandbytes": (
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        "config.json has `quant",
    ),
    "gptq": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"config.json .*\(gptq\).*base.quantise"),
    "text for a number": ({"rms_norm_eps": "1e-6"}, "config.json does not load: .*rms_norm_eps"),
    "dtype": ({"dtype": "bf16"}, "config.json has 'bf16' in `dtype`, which names no type of torch.*write bfloat16"),
    "dtype of old": ({"torch_dtype": "torch.float16"}, "config.json has 'torch.float16' in `torch_dtype`"),
    "dtype of the text": ({"text_config": {"dtype": "fp16"}}, "config.json has 'fp16' in `dtype`"),
    "vocabulary": (
        {"vocab_size": 600},
        "config.json has 600 as `vocab_size`, and model.embed_tokens.weight has 512 rows",
    ),
    "pad": ({"pad_token_id": 32000}, "config.json has 32000 in `pad_token_id`, outside the vocabulary of 512"),
    "end": ({"eos_token_id": [2, 512]}, "config.json has 512 in `eos_token_id`, outside"),
    "architecture": ({"model_type": "clip"}, "config.json does not load: no causal language model"),
    "unknown": ({"model_type": "never"}, "config.json does not load"),
    "code": (
        {"model_type": "never", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}},
        "config.json has `auto_map`: the model needs code of its own, which is never run",
    ),
    "other weights": ({"transformers_weights": "x.safetensors"}, "config.json names other weights"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_config_that_does_not_load_is_refused_and_named(model: Path, tmp_path: Path, name: str) -> None:
    values, words = WRONG[name]
    before = (model / "config.json").read_text()
    edit(model / "config.json", **values)
    refused(tmp_path, model, words)
    (model / "config.json").write_text(before)
    assert pin(tmp_path, model)


SIZES: dict[str, tuple[dict[str, Any], str]] = {
    "hidden size": (
        {"hidden_size": 128},
        r"model.safetensors has .* in the shape 512 x 64, and .*json makes it 512 x 128",
    ),
    "heads": ({"num_attention_heads": 4, "num_key_value_heads": 4}, r"_proj.weight in the shape 64 x 64"),
    "keys": ({"num_key_value_heads": 8}, r"k_proj.weight in the shape 32 x 64, and .*config.json makes it 64 x 64"),
    "more layers": ({"num_hidden_layers": 7}, r"model.safetensors has no model.layers.5.*config.json .*18 tensors"),
    "fewer layers": ({"num_hidden_layers": 3}, r"has model.layers.3.* of a layer that .*config.json does not have"),
    "head of its own": ({"tie_word_embeddings": False}, r"has no lm_head.weight, which .*config.json asks for"),
    "another kind": ({"model_type": "gpt2"}, r"model.safetensors has no lm_head.weight"),
    "rotary kind": ({"rope_parameters": {"rope_type": "spiral"}}, "'spiral' as `rope_type`.* not know .* llama3"),
    "rotary kind of old": ({"rope_scaling": {"type": "spiral", "factor": 2.0}}, "has 'spiral' as `rope_type`"),
    "rotary factor": ({"rope_parameters": {"rope_type": "linear", "factor": "2", "rope_theta": 1e4}}, "config.json"),
    "activation": ({"hidden_act": "wave"}, "config.json does not load: nothing is known by the name 'wave'"),
}


@pytest.mark.parametrize("name", SIZES)
def test_weights_that_are_another_model_than_the_config_are_refused_and_the_right_value_helps(
    model: Path, tmp_path: Path, name: str
) -> None:
    values, words = SIZES[name]
    before = (model / "config.json").read_text()
    edit(model / "config.json", **values)
    refused(tmp_path, model, words)
    (model / "config.json").write_text(before)
    assert pin(tmp_path, model)


def test_weights_beside_those_of_the_model_are_named_and_the_base_is_pinned(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from safetensors.numpy import load_file, save_file

    path = model / "model.safetensors"
    save_file({**load_file(path), "mtp.layers.0.weight": np.zeros(3, np.float32)}, path, {"format": "pt"})
    with caplog.at_level("INFO"):
        pin(tmp_path, model)
    assert "model.safetensors: 1 tensors are no part of the model and stay unread, such as mtp.layers.0" in caplog.text


def test_an_index_without_metadata_is_refused_and_the_advice_helps(sharded: Path, tmp_path: Path) -> None:
    edit(sharded / "model.safetensors.index.json", metadata=None)
    refused(tmp_path, sharded, r'index.json has no `metadata`.*write `"metadata": \{\}` there')
    edit(sharded / "model.safetensors.index.json", metadata={})
    assert pin(tmp_path, sharded)


def test_the_weights_are_not_read_where_their_headers_say_enough(model: Path, tmp_path: Path) -> None:
    before = _bytes_read()
    big = model / "model.safetensors"
    size = big.stat().st_size
    check_weights(model)
    assert _bytes_read() - before < size / 2


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def test_code_beside_an_architecture_of_transformers_does_not_run(model: Path, tmp_path: Path) -> None:
    edit(model / "config.json", auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"})
    (model / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    pin(tmp_path, model)
    opened = BaseModel.open(tmp_path / "base")
    assert opened.load_tokenizer()
    assert load_base(opened)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["{", '{"model": 1}', "[]"])
def test_a_tokenizer_that_does_not_load_is_refused_by_name(model: Path, tmp_path: Path, text: str) -> None:
    (model / "tokenizer.json").write_text(text)
    refused(tmp_path, model, r"tokenizer.json")


# where the base stops


@pytest.mark.parametrize(
    ("generation", "config", "ids"),
    [
        ({"eos_token_id": 2}, {"eos_token_id": 3}, [2]),
        ({"eos_token_id": [2, 5]}, {}, [2, 5]),
        ({}, {"eos_token_id": [3, 4]}, [3, 4]),
        ({"eos_token_id": None}, {"eos_token_id": 3}, [3]),
        ({"eos_token_id": [2, None]}, {"eos_token_id": 3}, [2]),
        ({"eos_token_id": [None]}, {"eos_token_id": 3}, [3]),
        ({"eos_token_id": "2"}, {}, [2]),
        ({}, {"text_config": {"eos_token_id": 7}}, [7]),
        ({}, {}, []),
    ],
)
def test_the_ids_to_stop_at_are_read_from_either_file(
    generation: dict[str, Any], config: dict[str, Any], ids: list[int]
) -> None:
    assert end_ids(generation, config) == ids


@pytest.mark.parametrize("value", ["</s>", 2.5, True, -1, {"a": 1}, [[2]]])
def test_an_id_to_stop_at_that_is_none_is_refused_by_name(model: Path, tmp_path: Path, value: object) -> None:
    edit(model / "generation_config.json", eos_token_id=value)
    refused(tmp_path, model, "generation_config.json does not say where to stop")


def test_a_list_with_null_and_a_config_alone_reach_encode(model: Path, tmp_path: Path) -> None:
    edit(model / "generation_config.json", eos_token_id=[2, None, "5"])
    pin(tmp_path / "a", model)
    assert generation_eos(BaseModel.open(tmp_path / "a/base")) == [2, 5]
    (model / "generation_config.json").unlink()
    edit(model / "config.json", eos_token_id=[1, 2])
    pin(tmp_path / "b", model)
    assert generation_eos(BaseModel.open(tmp_path / "b/base")) == [1, 2]


def test_later_stages_name_a_base_that_does_not_load(model: Path, tmp_path: Path) -> None:
    edit(model / "config.json", pad_token_id=32000)
    (model / "tokenizer.json").write_text("no tokenizer")
    opened = BaseModel("local", str(model), None, "d" * 64, str(model))
    with pytest.raises(ArtifactError, match="does not load"):
        load_base(opened)
    with pytest.raises(ArtifactError, match="has no tokenizer that loads"):
        opened.load_tokenizer()
