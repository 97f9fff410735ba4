"""The adapter that training continues from: loaded exactly, trained on in float32, refused where it does not fit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from tasks.core.errors import ArtifactError, ConfigError
from tasks.core.pinned_adapter import CONFIG, WEIGHTS, adapter_digest
from tasks.dpo.model.adapter import LoraSettings, adapter_parameters, attach_lora
from tasks.dpo.model.adapter_loading import load_adapter
from tasks.dpo.reference.reference_pass import reference_logps
from tasks.dpo.training.trainer import train
from tests.dpo import tiny

PAIRS = tiny.pairs(9)
IDS = torch.arange(3, 23)[None]


def saved(folder: Path, seed: int = 3, **lora: Any) -> Path:
    """Save an adapter that does something."""
    settings = LoraSettings(**{"rank": 4, "alpha": 8, **lora})
    tiny.adapter_bytes(tiny.moved(tiny.policy(lora=settings), seed), folder)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def edited(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize("lora", [{}, {"target_modules": ("q_proj", "lm_head")}], ids=["all-linear", "with the head"])
def test_it_gives_the_logits_that_peft_gives(tmp_path: Path, lora: dict[str, Any]):
    folder = saved(tmp_path, **lora)
    model = load_adapter(tiny.base(), folder)
    assert torch.equal(logits(model), logits(PeftModel.from_pretrained(tiny.base(), str(folder))))
    assert not torch.allclose(logits(model), logits(tiny.base()), atol=1e-2)


def test_an_adapter_saved_by_peft_itself_is_read(tmp_path: Path):
    model = get_peft_model(tiny.base(), LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj"], use_rslora=True))
    for parameter in adapter_parameters(model):
        parameter.data.normal_(0, 0.3)
    model.save_pretrained(str(tmp_path))
    settings = LoraSettings(rank=3, alpha=5, target_modules=("q_proj",))
    assert torch.equal(logits(load_adapter(tiny.base(), tmp_path, settings)), logits(model))


def test_the_policy_is_trainable_in_float32_and_the_base_is_frozen(tmp_path: Path):
    folder = saved(tmp_path)
    half = {name: tensor.bfloat16() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(half, folder / WEIGHTS, metadata={"format": "pt"})
    model = load_adapter(tiny.base().bfloat16(), folder, tiny.LORA)
    assert {p.dtype for p in adapter_parameters(model)} == {torch.float32}
    fresh = tiny.policy()
    assert [p.shape for p in adapter_parameters(model)] == [p.shape for p in adapter_parameters(fresh)]
    assert not any(p.requires_grad for name, p in model.named_parameters() if "lora_" not in name)


def test_training_starts_at_ln_2_from_a_reference_that_is_not_the_base(tmp_path: Path):
    folder = saved(tmp_path)
    frozen = load_adapter(tiny.base(), folder).requires_grad_(False)
    scored = reference_logps(frozen, PAIRS, with_adapter=True)
    of_base = reference_logps(tiny.base(), PAIRS)
    assert abs(scored.logps - of_base.logps).max() > 0.1
    policy = load_adapter(tiny.base(), folder, tiny.LORA)
    config = tiny.config(pairs_per_step=3, learning_rate=1e-2, lora=tiny.LORA)
    result = train(policy, scored, scored, config, tiny.budget(128))
    assert result.before["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert result.before["margin"] == pytest.approx(0.0, abs=1e-5)
    assert result.steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert result.after["loss"] < math.log(2) - 0.01
    # against the base it would not have been
    wrong = train(load_adapter(tiny.base(), folder, tiny.LORA), of_base, of_base, config, tiny.budget(128))
    assert abs(wrong.before["loss"] - math.log(2)) > 1e-3


def test_loading_leaves_the_random_state_alone(tmp_path: Path):
    folder, model = saved(tmp_path), tiny.base()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_adapter(model, folder)
    assert torch.equal(torch.rand(2), expected)


def test_what_is_trained_on_can_be_saved_and_loaded_again(tmp_path: Path):
    first = saved(tmp_path / "first")
    model = tiny.moved(load_adapter(tiny.base(), first, tiny.LORA), seed=8)
    tiny.adapter_bytes(model, tmp_path / "second")
    assert torch.equal(logits(load_adapter(tiny.base(), tmp_path / "second")), logits(model))
    one, other = (json.loads((tmp_path / name / CONFIG).read_text()) for name in ("first", "second"))
    assert one == other


def test_dropout_is_that_of_training_and_not_of_the_adapter(tmp_path: Path):
    folder = saved(tmp_path, dropout=0.5)
    model = load_adapter(tiny.base(), folder, LoraSettings(rank=4, alpha=8, dropout=0.25))
    assert {m.p for name, m in model.named_modules() if isinstance(m, torch.nn.Dropout) and "lora" in name} == {0.25}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 8}, r"`train.lora.rank` is 8, the adapter of `train.init_adapter` has 4 — write 4"),
        ({"alpha": 9}, r"`train.lora.alpha` is 9, the adapter of `train.init_adapter` has 8 — write 8"),
        ({"target_modules": ("q_proj",)}, r"`train.lora.target_modules` leaves out model.layers.0.mlp.down_proj"),
        ({"target_modules": ("q_porj",)}, r"`train.lora.target_modules` leaves out"),
    ],
)
def test_params_that_say_another_shape_are_refused_by_name(tmp_path: Path, settings: dict[str, Any], said: str):
    folder = saved(tmp_path)
    with pytest.raises(ConfigError, match=said):
        load_adapter(tiny.base(), folder, LoraSettings(**{"rank": 4, "alpha": 8, **settings}))


def test_params_that_name_more_layers_than_the_adapter_has_are_refused(tmp_path: Path):
    folder = saved(tmp_path, target_modules=("q_proj", "v_proj"))
    said = r"`train.lora.target_modules` names .*, unlike the adapter of .* — name its layers: q_proj, v_proj"
    with pytest.raises(ConfigError, match=said):
        load_adapter(tiny.base(), folder, tiny.LORA)
    settings = LoraSettings(rank=4, alpha=8, target_modules=("v_proj", "q_proj"))
    assert torch.equal(logits(load_adapter(tiny.base(), folder, settings)), logits(load_adapter(tiny.base(), folder)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "an adapter of the kind IA3"),
        ({"use_dora": True}, "the adapter's `use_dora` is True"),
        ({"modules_to_save": ["embed_tokens"]}, r"the adapter's `modules_to_save` is \['embed_tokens'\]"),
        ({"bias": "all"}, "the adapter's `bias` is all"),
        ({"init_lora_weights": "pissa"}, "the adapter's `init_lora_weights` is pissa"),
        ({"of_a_newer_peft": 3}, "the adapter's `of_a_newer_peft` is 3"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_what_is_no_plain_lora_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        load_adapter(tiny.base(), edited(saved(tmp_path), **changes))


def test_an_adapter_of_another_base_is_refused_by_the_first_tensors_that_differ(tmp_path: Path):
    wide = tiny.moved(attach_lora(tiny.base(hidden_size=64), tiny.LORA, 1))
    tiny.adapter_bytes(wide, tmp_path / "wide")
    with pytest.raises(
        ConfigError, match=r"does not fit the base: it has .*lora_A.weight of shape \[4, 64\], not \[4, 32\]"
    ):
        load_adapter(tiny.base(), tmp_path / "wide")
    with pytest.raises(ConfigError, match=r"`train.init_adapter`: the adapter does not fit the base"):
        load_adapter(tiny.base("gpt_neox"), saved(tmp_path / "llama"))
    deep = tiny.moved(attach_lora(tiny.base(num_hidden_layers=3), LoraSettings(4, 8, 0.0, ("q_proj",)), 1))
    tiny.adapter_bytes(deep, tmp_path / "deep")
    edited(tmp_path / "deep", target_modules=["q_proj"])
    with pytest.raises(ConfigError, match=r"an unexpected .*layers.2"):
        load_adapter(tiny.base(), tmp_path / "deep")


def test_damaged_files_are_refused(tmp_path: Path):
    folder = saved(tmp_path)
    whole = (folder / WEIGHTS).read_bytes()
    for damage in (whole[:100], b"", b"\x80\x04pickle"):
        (folder / WEIGHTS).write_bytes(damage)
        with pytest.raises(ArtifactError, match=r"adapter_model.safetensors cannot be read"):
            load_adapter(tiny.base(), folder)
    tensors = load_file(saved(tmp_path) / WEIGHTS)
    first = min(tensors)
    tensors[first][0] = float("nan")
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ArtifactError, match=f"NaN or infinite values, in {first}"):
        load_adapter(tiny.base(), folder)
    (folder / CONFIG).write_text("[")
    with pytest.raises(ArtifactError, match=r"adapter_config.json cannot be read"):
        load_adapter(tiny.base(), folder)


def test_an_adapter_s_identity_is_that_of_its_two_files(tmp_path: Path):
    one, same, other, edited_config = (saved(tmp_path / str(n), seed) for n, seed in enumerate((3, 3, 4, 3)))
    edited(edited_config, lora_alpha=9)
    assert adapter_digest(one) == adapter_digest(same)
    assert len({adapter_digest(folder) for folder in (one, other, edited_config)}) == 3
