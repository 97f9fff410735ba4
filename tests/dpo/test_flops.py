"""Operations counted by hand, and the machine's rate."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, MambaConfig, MixtralConfig

from tasks.dpo.capacity.flops import (
    ModelShape,
    matmul_rate,
    training_flops,
)
from tests.dpo import tiny

# H 32, I 48, two layers, four heads of 8, two key heads: q, o 32·32; k, v 32·16; gate, up, down 32·48
LLAMA_LAYER = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48
LLAMA = ModelShape(2 * LLAMA_LAYER, tiny.VOCABULARY, 32, 2, 4, 2, 8, 48, is_gated=True)


def lengths(*pairs: tuple[int, int, int]) -> Any:
    return np.array(pairs, np.int32)


def test_a_llama_is_counted_by_its_linear_layers():
    assert ModelShape.of(tiny.base()) == LLAMA


def test_adapters_are_not_the_models_weights_nor_is_an_adapted_head():
    everywhere = tiny.LoraSettings(rank=4, alpha=8, target_modules=("q_proj", "down_proj", "lm_head"))
    assert ModelShape.of(tiny.policy()) == LLAMA
    assert ModelShape.of(tiny.policy(lora=everywhere)) == LLAMA


def test_a_tied_head_is_no_part_of_the_body():
    assert ModelShape.of(tiny.base(tie_word_embeddings=True)) == LLAMA


@pytest.mark.parametrize("family", ["gpt_neox", "opt"])
def test_a_family_without_a_gate_is_counted(family: str):
    # q, k, v and o (fused or not) 4·32·32, up and down 2·32·I
    shape = ModelShape.of(tiny.base(family))
    assert (shape.body_weights, shape.is_gated) == (2 * (4 * 32 * 32 + 2 * 32 * shape.intermediate), False)
    assert (shape.heads, shape.key_heads, shape.head_dim, shape.intermediate) == (4, 4, 8, 48)


def test_a_gpt2_of_transposed_layers_is_counted():
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=97, bos_token_id=1, eos_token_id=2)
    shape = ModelShape.of(AutoModelForCausalLM.from_config(config))
    assert shape.body_weights == 2 * 12 * 32 * 32
    assert (shape.hidden, shape.layers, shape.heads, shape.intermediate) == (32, 2, 4, 128)


def test_of_a_mixture_only_the_active_experts_count():
    config = MixtralConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        vocab_size=97,
    )
    shape = ModelShape.of(AutoModelForCausalLM.from_config(config))
    assert shape.body_weights == 2 * 32 * 32 + 2 * 32 * 16 + 2 * (3 * 32 * 48)


@pytest.mark.parametrize("family", sorted(set(tiny.KINDS) - {"opt", "mamba", "recurrent_gemma"}))
def test_of_any_family_all_matrices_count_but_the_embeddings(family: str):
    model = tiny.base(family)
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    ways_in_and_out = 1 if model.config.tie_word_embeddings else 2
    assert ModelShape.of(model).body_weights == matrices - ways_in_and_out * 32 * tiny.VOCABULARY


def test_a_family_without_attention_has_a_shape():
    config = MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, vocab_size=97)
    shape = ModelShape.of(AutoModelForCausalLM.from_config(config))
    assert (shape.heads, shape.hidden, shape.layers) == (1, 32, 2)
    assert shape.body_weights > 0


def test_operations_are_4_n_a_token_and_4_v_h_a_completion_token():
    shape = ModelShape(1000, 50, 10, 1, 0, 1, 10, 40, is_gated=True)  # no heads, so no attention
    found = training_flops(shape, lengths((7, 2, 3), (4, 1, 1)))
    assert found == 4 * 1000 * (7 + 2 + 3 + 4 + 1 + 1) + 4 * 50 * 10 * (2 + 3 + 1 + 1)


def test_attention_counts_the_tokens_that_each_token_sees():
    # P 2, C 1, R 2: prompt and chosen see 1 + 2 + 3, rejected 2 + 1 and 2 + 2: 13 pairs; 12 each, times A = 8, L = 3
    shape = ModelShape(0, 0, 8, 3, 2, 1, 4, 0, is_gated=False)
    assert training_flops(shape, lengths((2, 1, 2))) == 12 * 8 * 3 * 13


def test_long_data_do_not_overflow():
    shape = ModelShape(8_000_000_000, 128_000, 4096, 32, 32, 8, 128, 14336, is_gated=True)
    million = np.full((1_000_000, 3), 4000, np.int32)
    attention = 12 * 4096 * 32 * 1e6 * (8000 * 8001 / 2 + 4000 * 4000 + 4000 * 4001 / 2)
    assert training_flops(shape, million) == pytest.approx(4 * 8e9 * 12e9 + 4 * 128_000 * 4096 * 8e9 + attention)


def test_the_rate_is_measured_once_a_process():
    first = matmul_rate("cpu", torch.float32)
    began = time.perf_counter()
    again = matmul_rate(torch.device("cpu"), torch.float32)
    assert time.perf_counter() - began < 0.05
    assert again == first > 1e7
