"""What the preflight chooses, by hand; that it refuses what cannot fit; and that it says so in two lines."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from tasks.core.errors import ConfigError
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.capacity import preflight as module
from tasks.dpo.capacity.flops import ModelShape, training_flops
from tasks.dpo.capacity.memory import MemoryModel, Recompute
from tasks.dpo.capacity.preflight import (
    CPU_TOKENS,
    allowed,
    choose,
    compute_type,
    duration,
    flops_in_words,
    preflight,
    round_down,
    seconds,
)
from tasks.dpo.capacity.step_plan import Sizes
from tasks.dpo.capacity.workload import Workload
from tasks.dpo.model.adapter import adapter_parameters
from tasks.dpo.scoring.scorer import Scorer
from tests.dpo import tiny

NONE, SELECTIVE, FULL = Recompute
# 85 % of what is free may be used; 1,000 bytes are needed at any size
MEMORY = MemoryModel(5_000, 1_000, {NONE: 100, SELECTIVE: 60, FULL: 10})


def free_for(tokens: int, level: Recompute) -> int:
    """Just enough free memory for so many tokens at a level."""
    return int((1_000 + tokens * MEMORY.per_token[level]) / 0.85) + 1


def work(lengths: list[tuple[int, int, int]], is_shared: bool = True, **more: Any) -> Workload:
    table = np.array(lengths, np.int64)
    return Workload(Sizes(table, np.arange(len(table)), is_shared), **{"pairs_per_step": 2, **more})


@pytest.mark.parametrize(
    ("tokens", "rounded"), [(1, 1), (2, 2), (3, 3), (5, 4), (700, 512), (768, 768), (1023, 768), (2048, 2048)]
)
def test_budgets_are_powers_of_two_or_half_again_as_much(tokens: int, rounded: int):
    assert round_down(tokens) == rounded


def test_a_cpu_takes_the_same_number_wherever_it_fits():
    for free in (free_for(CPU_TOKENS, NONE), 10 * free_for(CPU_TOKENS, NONE)):
        assert choose(MEMORY, free, longest_pair=100).tokens == CPU_TOKENS
    assert choose(MEMORY, free_for(CPU_TOKENS - 1, NONE), longest_pair=100).tokens == CPU_TOKENS * 2 // 3


def test_a_gpu_takes_what_memory_allows_up_to_65_536():
    tokens = [choose(MEMORY, free_for(n, NONE), 100, device_type="cuda").tokens for n in (5000, 9000, 10**6)]
    assert tokens == [4096, 8192, 65536]


def test_nothing_is_recomputed_while_enough_tokens_fit_without():
    found = choose(MEMORY, free_for(2048, NONE), 100, device_type="cuda")
    assert (found.recompute, found.tokens, found.need_bytes) == (NONE, 2048, 1_000 + 2048 * 100)


def test_the_lightest_level_that_holds_enough_is_taken():
    # one token too few without recomputing; 1.67 times as many fit with some: 3,411
    found = choose(MEMORY, free_for(2047, NONE), 100, device_type="cuda")
    assert (found.recompute, found.tokens) == (SELECTIVE, 3072)
    without = choose(MEMORY, free_for(2047, NONE), 100, device_type="cuda", levels=(NONE, FULL))
    assert (without.recompute, without.tokens) == (FULL, 16384)


def test_a_long_pair_alone_can_ask_for_recomputing():
    assert choose(MEMORY, free_for(2500, NONE), 2400, device_type="cuda").recompute is NONE
    assert choose(MEMORY, free_for(2500, NONE), 2600, device_type="cuda").recompute is SELECTIVE


def test_short_steps_are_not_recomputed_for_room_that_they_never_fill():
    found = choose(MEMORY, free_for(300, NONE), 100, device_type="cuda", most_tokens=250)
    assert (found.recompute, found.need_bytes) == (NONE, 1_000 + 250 * 100)


def test_what_the_user_fixed_is_kept():
    found = choose(MEMORY, free_for(4000, NONE), 100, wanted_tokens=3000, levels=allowed(True, (NONE, FULL)))
    assert (found.tokens, found.recompute) == (3000, FULL)
    assert choose(MEMORY, free_for(4000, NONE), 100, wanted_tokens=5000).recompute is SELECTIVE
    too_many = choose(MEMORY, free_for(4000, NONE), 100, wanted_tokens=60000)
    assert (too_many.tokens, too_many.recompute, too_many.need_bytes > too_many.free_bytes) == (60000, FULL, True)


def test_more_tokens_than_a_step_ever_needs_are_no_reason_to_recompute():
    found = choose(MEMORY, free_for(300, NONE), 100, wanted_tokens=60000, most_tokens=250)
    assert (found.tokens, found.recompute, found.need_bytes) == (60000, NONE, 1_000 + 250 * 100)


def test_a_pair_that_fits_only_in_all_of_memory_is_tried():
    found = choose(MEMORY, 1_000 + 400 * 10, longest_pair=400)
    assert (found.tokens, found.recompute) == (384, FULL)


def test_a_pair_that_does_not_fit_is_refused_in_numbers():
    with pytest.raises(ConfigError) as caught:
        choose(MemoryModel(16 * 10**9, 10**9, {FULL: 10**6}), 8 * 10**9, 9_000, levels=(FULL,))
    assert str(caught.value) == (
        "the longest pair (9,000 tokens) needs 10 GB beside 16 GB of weights even with every layer recomputed; "
        "8.0 GB are free — lower `encode.max_prompt_tokens` or `encode.max_completion_tokens`, quantise the base "
        "or take a smaller one"
    )


def test_where_recomputing_is_switched_off_it_is_the_first_advice():
    with pytest.raises(ConfigError, match=r"with nothing recomputed; .* — set `runtime.gradient_checkpointing: auto`"):
        choose(MEMORY, 20_000, 1_000, levels=allowed(False, (NONE, FULL)))


def test_work_is_measured_in_the_layout_that_is_used():
    pairs = [(5, 3, 2), (4, 1, 6), (1, 1, 1)]
    assert (work(pairs).longest_pair, work(pairs).longest_step) == (11, 21)
    assert (work(pairs, is_shared=False).longest_pair, work(pairs, is_shared=False).longest_step) == (20, 36)


def test_scoring_is_half_the_operations_and_passes_multiply_them():
    pairs, shape = [(5, 3, 2), (4, 1, 6)], ModelShape.of(tiny.base())
    once = training_flops(shape, np.array(pairs))
    assert work(pairs, passes=3).flops(shape) == 3 * once
    assert work(pairs, trains=False).flops(shape) == once / 2


def test_time_is_operations_over_two_fifths_of_the_rate_and_half_more_when_recomputed():
    assert seconds(8e12, 1e12, NONE) == pytest.approx(20)
    assert seconds(8e12, 1e12, FULL) == pytest.approx(30)


@pytest.mark.parametrize(("length", "words"), [(0.2, "1 s"), (89, "89 s"), (720, "12 min"), (12600, "3.5 h")])
def test_durations_in_words(length: float, words: str):
    assert duration(length) == words


@pytest.mark.parametrize(("rate", "words"), [(85.3e9, "85.3 GFLOP/s"), (6.7e14, "0.67 PFLOP/s"), (2e13, "20 TFLOP/s")])
def test_rates_in_words(rate: float, words: str):
    assert flops_in_words(rate) == words


def test_activations_are_in_the_type_of_the_weights():
    assert compute_type(tiny.policy()) == torch.float32
    assert compute_type(tiny.base().to(torch.bfloat16)) == torch.bfloat16


@pytest.mark.parametrize("trains", [True, False])
def test_the_preflight_of_a_small_model_chooses_and_says_so_in_two_lines(
    trains: bool, caplog: pytest.LogCaptureFixture
):
    runtime = RuntimeConfig(tokens_per_micro_batch="auto", gradient_checkpointing="auto", device="cpu")
    to_do = Workload(Sizes.of(tiny.pairs(20), is_shared=True), pairs_per_step=4, trains=trains)
    with Scorer(tiny.policy()) as scorer, caplog.at_level(logging.INFO, "tasks.dpo.capacity.preflight"):
        choice = preflight(scorer, to_do, runtime, Accelerator(cpu=True))
    assert (choice.tokens, choice.recompute) == (CPU_TOKENS, NONE)
    assert 0 < choice.need_bytes < choice.free_bytes
    memory, time = [record.getMessage() for record in caplog.records]
    assert memory.startswith("memory: ")
    assert f"{CPU_TOKENS:,} tokens at once" in memory
    assert "nothing recomputed" in memory
    assert time.startswith("work: ")
    assert "40% of the measured" in time


def test_memory_that_runs_out_in_the_middle_of_a_trial_s_backward_leaves_no_gradient():
    policy = tiny.moved(tiny.policy())
    first, *_, last = parameters = adapter_parameters(policy)
    reached = []
    last.register_post_accumulate_grad_hook(lambda parameter: reached.append(parameter.grad is not None))

    def run_out(_: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    first.register_hook(run_out)  # backward comes to the first layer last
    with Scorer(policy) as scorer, pytest.raises(torch.OutOfMemoryError):
        module._try(scorer, 256, trains=True)
    assert reached == [True]
    assert [parameter.grad for parameter in parameters] == [None] * len(parameters)
