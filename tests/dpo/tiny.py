"""Random models and pairs, small enough to train in a second: what the tests of the trainer share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import get_peft_model_state_dict

from tasks.core.files import sha256_file
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.model.adapter import LoraSettings, adapter_parameters, attach_lora
from tasks.dpo.objective.pair_loss import ObjectiveConfig
from tasks.dpo.reference.reference_pass import reference_logps
from tasks.dpo.training.adapter_saving import save_adapter
from tasks.dpo.training.train_config import TrainConfig
from tasks.dpo.training.trainer import train
from tasks.dpo.training.training_curves import TrainResult
from tasks.pairs.tokens.token_cache import TokenPairs, TokenRow

torch.set_num_threads(1)
VOCABULARY = 97
LORA = LoraSettings(rank=4, alpha=8)
FAMILIES = ("llama", "qwen2", "gpt_neox", "gemma2")
_GROUPED = {"num_key_value_heads": 2}
# The families by transformers' class names, with what each needs or is known for: windows narrower than the texts,
# layers of two kinds, soft caps, half-rotated heads.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", _GROUPED),
    "qwen2": ("Qwen2", _GROUPED),
    "qwen3": ("Qwen3", {**_GROUPED, "head_dim": 8}),
    "mistral": ("Mistral", {**_GROUPED, "sliding_window": 5}),
    "gemma2": (
        "Gemma2",
        {**_GROUPED, "head_dim": 8, "sliding_window": 5, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3": ("Gemma3", {**_GROUPED, "head_dim": 8, "sliding_window": 5, "num_hidden_layers": 3}),
    "phi3": ("Phi3", {**_GROUPED, "sliding_window": 7}),
    "smollm3": ("SmolLM3", {**_GROUPED, "no_rope_layers": [1, 0]}),
    "olmo2": ("Olmo2", _GROUPED),
    "gpt_neox": ("GPTNeoX", {}),
    "opt": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.5}),
    "granite": ("Granite", {**_GROUPED, "logits_scaling": 3.0, "attention_multiplier": 0.3}),
    "cohere": ("Cohere", {**_GROUPED, "logit_scale": 0.3}),
    "falcon_alibi": ("Falcon", {"alibi": True, "new_decoder_architecture": False}),
    "bloom": ("Bloom", {"n_head": 4, "n_layer": 2}),
    "mamba": ("Mamba", {"state_size": 4}),
    "recurrent_gemma": (
        "RecurrentGemma",
        {**_GROUPED, "head_dim": 8, "lru_width": 32, "attention_window_size": 64, "num_hidden_layers": 3},
    ),
}
# Families with a trap each, which only some tests go through.
TRAPS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2_window": ("Qwen2", {**_GROUPED, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "starcoder2": ("Starcoder2", {**_GROUPED, "sliding_window": 5}),
    "cohere2": ("Cohere2", {**_GROUPED, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}),
    "olmo3": ("Olmo3", {**_GROUPED, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}),
    "olmo_clipped": ("Olmo", {**_GROUPED, "clip_qkv": 1.0}),
    "qwen2_moe": (
        "Qwen2Moe",
        {
            **_GROUPED,
            "use_sliding_window": True,
            "sliding_window": 24,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
    ),
    "phimoe": ("Phimoe", {**_GROUPED, "sliding_window": 24, "num_local_experts": 4}),
    "llama4": (
        "Llama4",
        {
            **_GROUPED,
            "head_dim": 8,
            "attention_chunk_size": 24,
            "intermediate_size_mlp": 48,
            "num_local_experts": 2,
            "no_rope_layers": [1, 0],
        },
    ),
    "lfm2": ("Lfm2", {**_GROUPED, "layer_types": ["conv", "full_attention"]}),
    "longrope": (
        "Phi3",
        {
            **_GROUPED,
            "original_max_position_embeddings": 20,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0, 1.5, 2.0, 2.5],
                "long_factor": [2.0, 6.0, 12.0, 40.0],
            },
        },
    ),
    "dynamic": (
        "Llama",
        {
            **_GROUPED,
            "max_position_embeddings": 20,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
        },
    ),
}


def base(family: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """Return a random model of a family's shape, the same for the same seed, in evaluation mode."""
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 4096,
        "initializer_range": 0.15,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    name, own = {**KINDS, **TRAPS}[family]
    config_of = getattr(transformers, f"{name}TextConfig", None) or getattr(transformers, f"{name}Config")
    config = config_of(**{**shape, **own, **changes})
    torch.manual_seed(seed)
    return getattr(transformers, f"{name}ForCausalLM")(config).eval().requires_grad_(False)


def policy(family: str = "llama", seed: int = 1, lora: LoraSettings = LORA, **changes: Any) -> Any:
    """Return a random base with fresh adapters: a policy that equals its reference."""
    return attach_lora(base(family, **changes), lora, seed)


def moved(model: Any, seed: int = 3) -> Any:
    """Fill the adapters with random numbers, so that the policy differs from its reference."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter_parameters(model):
        parameter.data.normal_(0.0, 0.2, generator=generator)
    return model


def pairs(count: int, seed: int = 0, longest: int = 12) -> TokenPairs:
    """Return ``count`` pairs of random tokens and unequal lengths."""
    numbers = np.random.default_rng(seed)

    def some() -> Any:
        return numbers.integers(3, VOCABULARY, numbers.integers(1, longest + 1)).astype(np.int32)

    rows = [TokenRow(some(), some(), some()) for _ in range(count)]
    return TokenPairs.of_rows(rows, [f"{i:016x}" for i in range(count)], [f"{i:016x}" for i in range(count)])


def run(
    train_pairs: TokenPairs,
    config: TrainConfig,
    runtime: RuntimeConfig | None = None,
    test_pairs: TokenPairs | None = None,
    family: str = "llama",
    checkpoints: Path | None = None,
    model: Any = None,
) -> tuple[TrainResult, Any]:
    """Score the reference and train a fresh policy; return the result and the policy."""
    model = policy(family, config.seed, config.lora) if model is None else model
    scored = (reference_logps(model, part, runtime) for part in (train_pairs, test_pairs or pairs(7, 99)))
    return train(model, *scored, config, runtime, checkpoints), model


def budget(tokens: int, **more: Any) -> RuntimeConfig:
    """Return a runtime on the CPU with so many tokens in a micro-batch."""
    return RuntimeConfig(tokens_per_micro_batch=tokens, device="cpu", **more)


def gap(one: TrainResult, other: TrainResult) -> float:
    """Return the largest difference between two runs' curves, relative for numbers above 1."""
    worst = 0.0
    for first, second in ((one.steps, other.steps), (one.evals, other.evals)):
        assert [row["step"] for row in first] == [row["step"] for row in second]
        for a, b in zip(first, second, strict=True):
            worst = max(worst, *(abs(a[name] - b[name]) / max(1.0, abs(a[name])) for name in a))
    return worst


def nest_gap(one: Any, other: Any) -> float:
    """Return the largest difference of two nests of numbers, relative for numbers above 1."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return max(nest_gap(one[key], other[key]) for key in one)
    if isinstance(one, list):
        assert len(one) == len(other)
        return max(map(nest_gap, one, other), default=0.0)
    return abs(one - other) / max(1.0, abs(one))


def adapter_bytes(model: Any, folder: Path) -> tuple[str, str]:
    """Save the adapter and return the hashes of its two files."""
    folder.mkdir(parents=True, exist_ok=True)
    save_adapter(model, folder)
    return sha256_file(folder / "adapter_model.safetensors"), sha256_file(folder / "adapter_config.json")


def adapter_state(model: Any) -> dict[str, torch.Tensor]:
    """Return a copy of the adapters' tensors by name."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.clone() for name, tensor in state.items()}


def config(**values: Any) -> TrainConfig:
    """Return a TrainConfig from flat values: those of the objective are put into its mapping."""
    return changed(TrainConfig(), **values)


def changed(config: TrainConfig, **values: Any) -> TrainConfig:
    """Return ``config`` with some values changed, flat as for :func:`config`."""
    names = {field.name for field in dataclasses.fields(ObjectiveConfig)}
    inner = {name: value for name, value in values.items() if name in names}
    outer = {name: value for name, value in values.items() if name not in names}
    if inner:
        outer["objective"] = dataclasses.replace(config.objective, **inner)
    return dataclasses.replace(config, **outer)
