"""What the model computes in is a fact of the base: reference, training and answers read it alike.

The tolerance of bfloat16 is measured on the CPU, which need not have products in it to compute them.
"""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.core.base_model import BaseModel
from tasks.dpo.capacity.preflight import compute_type
from tasks.dpo.dataset.scored_pairs import ScoredPairs
from tasks.dpo.generation.batchwise import generate_batch
from tasks.dpo.generation.questions import Request, Sampling
from tasks.dpo.model import base_loading
from tasks.dpo.model.adapter import LoraSettings, adapter_parameters, attach_lora
from tasks.dpo.model.base_loading import load_base
from tasks.dpo.model.cpu_bfloat16 import product_type
from tasks.dpo.reference.reference_pass import reference_logps
from tasks.dpo.reference.row_identity import compute_identity
from tasks.dpo.training.trainer import train
from tasks.pairs.encoding.encoder import EncodeConfig, encode_pairs
from tasks.pairs.ingestion.intake import read_pairs
from tests.dpo import tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp("base")
    tiny.base().save_pretrained(folder)
    return BaseModel("local", str(folder), None, "0" * 64, str(folder), compute_dtype="bfloat16")


def test_by_itself_cuda_takes_bfloat16_and_a_cpu_float32_and_a_named_type_holds_on_both(base: BaseModel):
    kinds = ("cpu", "cuda")
    auto, single = (dataclasses.replace(base, compute_dtype=name) for name in ("auto", "float32"))
    assert [auto.dtype_on(kind) for kind in kinds] == ["float32", "bfloat16"]
    assert [single.dtype_on(kind) for kind in kinds] == ["float32", "float32"]
    assert [base.dtype_on(kind) for kind in kinds] == ["bfloat16", "bfloat16"]


def test_on_a_cpu_linear_layers_are_in_the_type_of_the_base_and_all_else_in_float32(base: BaseModel):
    model = attach_lora(load_base(base), tiny.LORA, 1)
    kinds = {name: p.dtype for name, p in model.named_parameters()}
    in_bfloat16 = {name for name, dtype in kinds.items() if dtype == torch.bfloat16}
    assert in_bfloat16 == {name for name in kinds if name.endswith("_proj.base_layer.weight")}
    assert set(kinds.values()) == {torch.bfloat16, torch.float32}
    assert {p.dtype for p in adapter_parameters(model)} == {torch.float32}
    assert (compute_type(model), product_type(model)) == (torch.float32, torch.bfloat16)
    single = load_base(dataclasses.replace(base, compute_dtype="float32"))
    assert {p.dtype for p in single.parameters()} == {torch.float32}
    assert product_type(single) == torch.float32


def test_what_stays_in_float32_is_not_rounded_first(base: BaseModel):
    exact, mixed = (load_base(dataclasses.replace(base, compute_dtype=name)) for name in ("float32", "bfloat16"))
    for part in ("get_input_embeddings", "get_output_embeddings"):
        assert torch.equal(getattr(mixed, part)().weight, getattr(exact, part)().weight)


@pytest.mark.parametrize("has_products", [True, False])
def test_a_cpu_without_bfloat16_products_is_told_that_it_will_be_slow_and_goes_on(
    base: BaseModel, has_products: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    known = {"avx2": True, "avx512_bf16": has_products, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    assert base_loading.has_bfloat16_products() is has_products
    with caplog.at_level(logging.INFO, "tasks"):
        load_base(base)
    assert sum("this CPU has no products in it" in line for line in caplog.messages) == (0 if has_products else 1)


def test_rows_scored_in_another_type_have_other_keys():
    assert compute_identity("cpu", "bfloat16") != compute_identity("cpu", "float32")
    assert compute_identity("cpu", "bfloat16") != compute_identity("cuda", "bfloat16")


def test_answers_are_drawn_from_a_bfloat16_model_too(base: BaseModel):
    model = attach_lora(load_base(base), tiny.LORA, 1)
    batch = [Request(name, 0, (5, 6, 7)[: 2 + number]) for number, name in enumerate("ab")]
    sampling = Sampling(0.7, 0.95, 6, (2,), seed=0)
    answers = [generate_batch(model, batch, sampling, "policy") for _ in range(2)]
    assert answers[0] == answers[1]
    assert all(answer.ids for answer in answers[0])


def test_an_untrained_policy_equals_its_reference_in_bfloat16_however_the_rows_were_cut(base: BaseModel):
    model = attach_lora(load_base(base), tiny.LORA, 1)
    scored = [reference_logps(model, tiny.pairs(count, seed), tiny.budget(64)) for count, seed in ((8, 0), (3, 99))]
    result = train(model, *scored, tiny.config(pairs_per_step=8, lora=tiny.LORA), tiny.budget(512))
    for row in (result.before, result.steps[0]):
        assert row["loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert row["margin"] == 0.0


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["stories260K", "tinystories-656K"])
def test_trained_models_give_in_bfloat16_what_the_docstring_says_of_them(name: str, shared: Path):
    folder = str(shared / "models" / name)
    single = BaseModel("local", folder, None, "0" * 64, folder, compute_dtype="float32")
    half = dataclasses.replace(single, compute_dtype="bfloat16")
    data = shared / "preferences/blimp-minimal-pairs/pairs.jsonl.gz"
    with gzip.open(data, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, 400)]
    tokens = encode_pairs(read_pairs(rows), single.load_tokenizer(), EncodeConfig(128, 128, text_as="completion"))
    models = [attach_lora(load_base(each), LoraSettings(rank=8, alpha=16), 1) for each in (single, half)]
    exact, rounded = (reference_logps(model, tokens, tiny.budget(768)) for model in models)
    off = np.abs(exact.logps - rounded.logps)
    assert 1e-4 < off.mean() < 0.03
    assert off.max() < 0.4
    sums = [torch.stack(scored.sums(np.arange(len(tokens)))) for scored in (exact, rounded)]
    assert float((sums[0] - sums[1]).abs().max()) < 0.8
    assert 70 < float(sums[0].abs().mean()) < 90
    few = part_of(rounded, 24)
    result = train(models[1], few, few, tiny.config(pairs_per_step=8, learning_rate=2e-3), tiny.budget(512))
    for row in (result.before, result.steps[0]):
        assert row["loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert row["margin"] == 0.0
    assert result.after["loss"] < result.before["loss"] - 0.02


def part_of(scored: ScoredPairs, count: int) -> ScoredPairs:
    tokens = type(scored.tokens).of_rows(
        [scored.tokens.row(i) for i in range(count)],
        [f"{i:016x}" for i in range(count)],
        [f"{i:016x}" for i in range(count)],
    )
    return ScoredPairs(tokens, scored.token_logps(np.arange(count)))
