"""The gate errs no more often than it says and finds what it promises, by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.estimation.power import smallest_detectable_win_rate, spent_alpha
from tests.estimation.levels import (
    ALPHA,
    BEGIN,
    END,
    EVEN,
    PAGE,
    SHAPES,
    SIZES,
    TIES,
    better,
    error_over_looks,
    finds,
    hard,
    p_values,
    promoted,
)

SLACK = 0.0045  # three standard errors of a share of 0.05 in 20,000 runs


@pytest.mark.nightly
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("ties", TIES)
def test_five_looks_at_growing_data_promote_an_equal_candidate_in_at_most_five_percent(ties: float, n: int):
    assert error_over_looks(*hard(ties), n, runs=20_000, seed=1) <= ALPHA


@pytest.mark.nightly
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", SHAPES)
def test_soft_credits_of_any_shape_keep_the_level_over_five_looks(name: str, n: int):
    assert error_over_looks(*SHAPES[name], n, runs=4_000, seed=1) <= ALPHA


@pytest.mark.nightly
@pytest.mark.parametrize("n", [20, 50, 200, 805])
@pytest.mark.parametrize("name", SHAPES)
def test_the_bound_holds_its_level_at_one_look(name: str, n: int):
    assert finds("Dirichlet", SHAPES[name], n, runs=20_000, seed=1) <= ALPHA + SLACK


@pytest.mark.parametrize("shape", [hard(0.6), SHAPES["left-skewed: 9 at 0.556, 1 at 0"]])
def test_the_level_holds_in_a_short_run(shape):
    assert error_over_looks(*shape, 100, runs=2_000) <= ALPHA
    assert finds("Dirichlet", shape, 200, runs=2_000) <= 0.05


def test_each_shape_is_as_good_as_its_opponent_and_its_better_one_is_better():
    for values, chances in SHAPES.values():
        assert values @ chances == pytest.approx(EVEN, abs=1e-9)
        assert 0.513 < values @ better((values, chances))[1] < 0.5501


def test_the_hundredth_prompt_brings_no_jump_of_power():
    # of 100 prompts 60 are ties; of the decided ones 80 % are won
    chances = [0.4 * 0.2, 0.6, 0.4 * 0.8]
    power = {
        n: float(
            (
                p_values(np.array([0.0, 0.5, 1.0]), np.random.default_rng(0).multinomial(n, chances, 1500)) < 0.0304
            ).mean()
        )
        for n in (98, 99, 100, 101)
    }
    assert min(power.values()) > 0.9
    assert max(power.values()) - min(power.values()) < 0.04


@pytest.mark.parametrize("look", [1, 5])
def test_the_gate_finds_the_smallest_detectable_win_rate_in_80_percent(look: int):
    n, level = 200, spent_alpha(ALPHA, look)
    rate = smallest_detectable_win_rate(n, level)
    counts = np.random.default_rng(look).multinomial(n, [1 - rate, rate], size=4000)
    assert (p_values(np.array([0.0, 1.0]), counts) < level).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.nightly
def test_a_challenger_at_60_percent_is_promoted_unless_it_slid_against_the_base():
    assert promoted(0.6, 0.7, 0.7, 200, runs=500) > 0.75  # two bounds compared with a tolerance: 0.55
    assert promoted(0.6, 0.5, 0.7, 200, runs=500) < 0.05


def test_the_page_holds_the_tables_that_the_script_writes():
    page = PAGE.read_text(encoding="utf-8")
    measured = page[page.index(BEGIN) : page.index(END)]
    for ties in TIES:
        assert f"| wins, losses, ties {ties:g} |" in measured
    rows = [
        line.strip("| ").split(" | ") for line in measured.splitlines() if line.startswith("| wins") or "at 0" in line
    ]
    errors = [float(cell) for row in rows for cell in row[1:] if cell.startswith("0.") and len(cell) == 6]
    assert errors
    assert max(errors) <= ALPHA
