"""What a step holds: the formula by hand and against what autograd really keeps; and what there is to give."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.dpo.capacity.flops import ModelShape
from tasks.dpo.capacity.memory import (
    Fusion,
    MemoryModel,
    Recompute,
    bytes_of,
    container_leaves,
    free_bytes,
    in_words,
    layer_bytes,
    saved_bytes,
)
from tasks.dpo.model.adapter import LoraSettings, attach_lora
from tasks.dpo.scoring.scorer import Scorer
from tasks.dpo.telemetry.heap import resident_bytes
from tasks.dpo.training.activation_checkpointing import set_modes
from tasks.pairs.tokens.token_cache import TokenRow
from tasks.telemetry.provenance import peak_memory_bytes
from tests.dpo import tiny

# H 10, A 2·5, K 1·5, I 40
SHAPE = ModelShape(1000, 50, 10, 3, 2, 1, 5, 40, is_gated=True)
WIDE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4}
LORA = LoraSettings(rank=2, alpha=4)


def pairs(count: int) -> list[TokenRow]:
    """So many pairs of 16 packed tokens."""
    return [TokenRow(np.full(8, i + 3), np.arange(4), np.arange(4)) for i in range(count)]


def kept_by_autograd(scorer: Scorer, count: int) -> int:
    """The bytes of the distinct storages that a forward over pairs saves for backward, the model's own left out."""
    model, batch = scorer.model, scorer.lay_out(pairs(count))
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        scorer.logps(batch)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def live_bytes() -> int:
    """The bytes of the distinct storages of all tensors that Python holds."""
    gc.collect()
    sizes: dict[int, int] = {}
    for item in gc.get_objects():
        if type(item) is torch.Tensor:
            with contextlib.suppress(RuntimeError):  # of a tensor that only a compiler looked at there is no storage
                sizes[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
    return sum(sizes.values())


def test_a_layer_by_hand():
    none = 2 * 10 * 4 + (2 * 10 + 3 * 10 + 4 * 5 + 4 * 40) * 4
    assert layer_bytes(SHAPE, torch.float32, Recompute.NONE) == none
    assert layer_bytes(SHAPE, torch.float32, Recompute.NONE, Fusion(True, True)) == 2 * 10 * 4 + (20 + 20 + 10 + 80) * 4
    assert layer_bytes(SHAPE, torch.bfloat16, Recompute.NONE) == 2 * 10 * 4 + (20 + 30 + 20 + 160) * 2
    assert layer_bytes(SHAPE, torch.bfloat16, Recompute.SELECTIVE) == (20 + 10 + 2 * 40 + 20) * 2
    assert layer_bytes(SHAPE, torch.bfloat16, Recompute.FULL) == 10 * 2
    assert saved_bytes(SHAPE, torch.float32, Recompute.NONE) == 3 * none + 10 * (3 * 4 + 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox", "gemma2"])
def test_the_formula_is_near_what_autograd_keeps(family: str, dtype: torch.dtype):
    model = attach_lora(tiny.base(family, **WIDE).to(dtype), LORA, 0)
    with Scorer(model) as scorer:
        kept = (kept_by_autograd(scorer, 8) - kept_by_autograd(scorer, 4)) / (4 * 16)
        fusion = Fusion.of(model)
    assert fusion == Fusion(attention=True, gates=family in ("llama", "qwen3") and dtype == torch.float32)
    assert 0.7 < saved_bytes(ModelShape.of(model), dtype, Recompute.NONE, fusion) / kept < 1.5


def test_with_every_layer_recomputed_a_layers_input_stays():
    model = tiny.policy(lora=LORA, **WIDE)
    set_modes(model, Recompute.FULL)
    with Scorer(model) as scorer:
        batch = scorer.lay_out(pairs(64))
        before = live_bytes()
        logp_N = scorer.logps(batch)
        kept = (live_bytes() - before) / batch.ids_BL.numel()
    assert logp_N.requires_grad
    assert 0.6 < saved_bytes(ModelShape.of(model), torch.float32, Recompute.FULL) / kept < 1.7


def test_a_model_needs_weights_gradients_moments_and_a_tile_of_the_head():
    model = tiny.policy()
    memory = MemoryModel.of(model, shape := ModelShape.of(model), torch.float32, tile=100 * tiny.VOCABULARY)
    adapters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert memory.held == bytes_of(model)
    assert memory.fixed == adapters * 16 + 100 * tiny.VOCABULARY * 8
    assert memory.need(7, Recompute.FULL) == memory.fixed + 7 * (
        saved_bytes(shape, torch.float32, Recompute.FULL)
        + layer_bytes(shape, torch.float32, Recompute.NONE, Fusion(attention=True))
    )


def test_a_model_that_is_scored_whole_holds_every_tokens_logits():
    model = tiny.policy()
    split, whole = (
        MemoryModel.of(model, ModelShape.of(model), torch.float32, tile=100 * tiny.VOCABULARY, whole_logits=is_whole)
        for is_whole in (False, True)
    )
    for level in Recompute:
        assert whole.per_token[level] - split.per_token[level] == tiny.VOCABULARY * 8
    assert split.fixed - whole.fixed == 100 * tiny.VOCABULARY * 8


def test_scoring_keeps_one_layer_and_no_gradients():
    model = tiny.policy()
    memory = MemoryModel.of(
        model, shape := ModelShape.of(model), torch.bfloat16, tile=100 * tiny.VOCABULARY, trains=False
    )
    assert memory.fixed == 100 * tiny.VOCABULARY * 10
    assert memory.per_token[Recompute.NONE] == layer_bytes(
        shape, torch.bfloat16, Recompute.NONE, Fusion(attention=True)
    )


def test_a_measured_number_moves_the_other_levels_in_proportion():
    memory = MemoryModel(0, 0, {Recompute.NONE: 100, Recompute.SELECTIVE: 60, Recompute.FULL: 20}).measured(150)
    assert memory.per_token == {Recompute.NONE: 150, Recompute.SELECTIVE: 90, Recompute.FULL: 30}


def test_what_fits_is_what_is_free_over_what_a_token_takes():
    memory = MemoryModel(0, 100, {Recompute.NONE: 7})
    assert [memory.fitting(free, Recompute.NONE) for free in (50, 100, 106, 107, 170)] == [0, 0, 0, 1, 10]


def test_tied_weights_count_once():
    tied, untied = (tiny.base(tie_word_embeddings=tie) for tie in (True, False))
    assert bytes_of(untied) - bytes_of(tied) == tiny.VOCABULARY * 32 * 4


def test_a_container_of_version_2_leaves_its_limit_less_what_is_used(tmp_path: Path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for folder, limit, used in (("a", "1000", "300"), ("a/b", "max", "100")):
        (tmp_path / folder / "memory.max").write_text(f"{limit}\n")
        (tmp_path / folder / "memory.current").write_text(f"{used}\n")
    (tmp_path / "membership").write_text("0::/a/b\n")
    assert container_leaves(tmp_path, tmp_path / "membership") == 700


def test_a_container_of_version_1_is_read_too_and_the_narrowest_group_binds(tmp_path: Path):
    (tmp_path / "memory" / "a").mkdir(parents=True)
    for folder, limit, used in (("", 9000, 0), ("a", 500, 450)):
        (tmp_path / "memory" / folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (tmp_path / "memory" / folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (tmp_path / "membership").write_text("5:pids:/\n4:cpu,memory:/a\n0::/\n")
    assert container_leaves(tmp_path, tmp_path / "membership") == 50


def test_without_a_limit_a_container_leaves_more_than_any_machine_has(tmp_path: Path):
    assert container_leaves(tmp_path, tmp_path / "none") > 2**60


def test_a_cpus_ranks_share_what_is_free(monkeypatch: pytest.MonkeyPatch):
    alone = free_bytes(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    shared = free_bytes(torch.device("cpu"))
    assert alone > 10_000_000
    assert shared == pytest.approx(alone / 4, rel=0.3)  # other programs take and give in between


def test_the_peak_of_this_process_is_at_least_what_it_holds_now():
    resident = resident_bytes()
    assert 0.95 * resident < peak_memory_bytes()["resident"] < 50 * resident


@pytest.mark.parametrize(("size", "words"), [(0, "0 MB"), (340e6, "340 MB"), (1.64e9, "1.6 GB"), (42.4e9, "42 GB")])
def test_bytes_in_words(size: float, words: str):
    assert in_words(size) == words
