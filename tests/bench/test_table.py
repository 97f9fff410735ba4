"""The tables of benchmarks say what the result files say, and the work that is counted is counted right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench import table
from tests.bench.job import utilisation
from tests.bench.shapes import SHAPES, draw

RESULT: dict[str, Any] = {
    "machine": {"processor": "some processor", "threads": 2, "matmul_flops_per_s": 1.5e11},
    "versions": {
        "ours": {"torch": "2.13.0", "peft": "0.21.2"},
        "trl": {"torch": "2.13.0", "peft": "0.21.0", "trl": "1.16.0"},
    },
    "model": {"name": "small", "layers": 2, "hidden": 64, "vocabulary": 32000},
    "lengths": {
        "profile": "hh",
        "medians": {"prompt": 120, "chosen": 60, "rejected": 60},
        "pairs_per_step": 16,
        "pairs": 48,
    },
    "arms": {
        "ours": {
            "pairs_per_s": 4.0,
            "peak_bytes": 1_250_000_000,
            "utilisation": 0.656,
            "largest_loss_difference": 0.0,
            "reference_seconds": 12.0,
            "settings": "",
        },
        "trl_tuned": {
            "pairs_per_s": 0.5,
            "peak_bytes": 2_800_000_000,
            "utilisation": 0.08,
            "largest_loss_difference": 2.2e-7,
            "reference_seconds": 0.0,
            "settings": "micro-batch 1",
        },
    },
}


def test_the_pages_tables_are_what_the_files_say() -> None:
    results = table.BENCH / "results"
    for page, tables in ((table.PAGE, table.draw(results)), (table.README, table.draw_short(results))):
        text = page.read_text(encoding="utf-8")
        assert table.put(text, tables) == text, "run python -m tests.bench.table"


def test_the_short_table_has_the_figures_of_the_long_one() -> None:
    results = table.BENCH / "results"
    short, whole = table.draw_short(results).splitlines(), table.draw(results).splitlines()
    rows = {line.split(" | ")[0]: line.split(" | ") for line in reversed(whole)}  # the first table's rows win
    assert len(short) == 2 + 5
    for cells in (line.removesuffix(" |").split(" | ") for line in short[2:]):
        arm, speed, ours, ours_bf16, epoch, peak, curve = cells
        assert [*rows[arm][:6], rows[arm][7]] == [arm, speed, ours, ours_bf16, epoch, peak, curve]


def test_a_result_becomes_a_row_for_each_arm(tmp_path: Path) -> None:
    (tmp_path / "train-cpu-hh.json").write_text(json.dumps(RESULT))
    lines = table.draw(tmp_path).splitlines()
    assert "profile hh (medians 120/60/60)" in lines[0]
    assert "150 GFLOP/s; torch 2.13.0, peft 0.21.2; trl 1.16.0 (with peft 0.21.0)." in lines[0]
    assert lines[-2:] == [
        "| ours | 4.00 | 1.00x | 1.00x | 1.25 GB | 66 % | 0e+00 | as it comes |",
        "| trl tuned | 0.50 | 8.00x | 4.00x | 2.80 GB | 8 % | 2e-07 | micro-batch 1 |",
    ]


def test_arms_in_bfloat16_are_compared_with_ours_in_it_too(tmp_path: Path) -> None:
    machine = {**RESULT["machine"], "matmul_bf16_flops_per_s": 4e11}
    ours = {**RESULT["arms"]["ours"], "pairs_per_s": 6.0, "settings": "bf16"}
    arms = {"ours": RESULT["arms"]["ours"], "ours_bf16": ours, "trl_tuned": RESULT["arms"]["trl_tuned"]}
    (tmp_path / "train-cpu-hh.json").write_text(json.dumps({**RESULT, "machine": machine, "arms": arms}))
    lines = table.draw(tmp_path).splitlines()
    assert "150 GFLOP/s, in bf16 400; torch" in lines[0]
    assert "| ours is faster by | ours bf16 by |" in lines[2]
    assert [line.split(" | ")[2:4] for line in lines[-3:]] == [
        ["1.00x", "1.50x"],
        ["0.67x", "1.00x"],
        ["8.00x", "12.00x"],
    ]


def test_the_table_goes_between_the_comments_and_nowhere_else() -> None:
    page = f"above\n{table.BEGIN}\nold\n{table.END}\nbelow"
    new = table.put(page, r"new \1")
    assert new == f"above\n{table.BEGIN}\nnew \\1\n{table.END}\nbelow"
    assert table.put(new, r"new \1") == new
    with pytest.raises(ValueError, match="needs one line"):
        table.put("no comments", "new")


def test_the_work_of_a_pair_is_counted_as_published() -> None:
    # hidden 64, 2 layers: attention 4·64·64 and feed-forward 3·64·176 weights a layer
    assert SHAPES["tiny"].body_matmul_parameters == 2 * (16384 + 33792) == 100352
    flops = 4 * 100352 * (12 + 6 + 5) + 4 * 512 * 64 * (6 + 5)
    assert SHAPES["tiny"].pair_flops(12, 6, 5) == flops
    assert utilisation("tiny", [[10, 7, 5], [14, 5, 5]], pairs_per_s=3.0, rate=6.0 * flops) == pytest.approx(0.5)


def test_the_pairs_are_the_same_for_the_same_seed_and_have_the_profiles_medians() -> None:
    one, other = draw("hh", 4000, 100, seed=1), draw("hh", 4000, 100, seed=1)
    assert np.array_equal(one.ids, other.ids)
    assert np.median(one.lengths, axis=0) == pytest.approx([120, 60, 60], rel=0.05)
    assert np.log(one.lengths[:, 0]).std() == pytest.approx(0.6, rel=0.05)
    _, chosen, rejected = one.rows()[0]
    assert max(chosen) < min(rejected), "there is something to learn"
    order = np.array([3, 0])
    assert one.subset(order).rows() == [one.rows()[3], one.rows()[0]]
