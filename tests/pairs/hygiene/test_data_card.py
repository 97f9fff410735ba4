"""The facts of the data card: lengths, weights and margins by bins, rows by source, and what was not read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.ingest import Folders, IngestConfig, run
from tasks.pairs.record.pair import Message, Pair


def ingest(folder: Path, rows: list[dict[str, Any]], **config: Any) -> dict[str, Any]:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run(Folders(folder / "out"), IngestConfig(sources=(str(folder / "a.jsonl"),), test_share=0.3, **config))


def rows(count: int = 30, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"Q{i:03}", "chosen": "a" * 12, "rejected": "b" * (i + 1), **more} for i in range(count)]


def test_every_pair_is_in_one_bin_of_its_lengths(tmp_path: Path) -> None:
    bins = ingest(tmp_path, rows())["histograms"]["characters"]
    assert bins["edges"] == [1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32]
    assert bins["rejected"] == [1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6]  # lengths 1 to 30; a bin leaves its upper edge out
    assert bins["chosen"] == [0, 0, 0, 0, 0, 0, 0, 30, 0, 0, 0, 0]
    assert bins["prompt"] == [0, 0, 0, 30, 0, 0, 0, 0, 0, 0, 0, 0]


def test_a_million_characters_are_in_the_last_bin(tmp_path: Path) -> None:
    bins = ingest(tmp_path, [*rows(), {"prompt": "Q", "chosen": "a" * 1_200_000, "rejected": "b"}])["histograms"]
    assert (bins["characters"]["edges"][-1], bins["characters"]["chosen"][-1]) == (1_000_000, 1)


@pytest.mark.nightly
def test_long_texts_do_not_end_in_a_message_about_memory(tmp_path: Path) -> None:
    metrics = ingest(tmp_path, [{**row, "chosen": f"{i}" + "a" * 300_000} for i, row in enumerate(rows(1000))])
    assert metrics["characters_mean"]["chosen"] == 300_002.89


def test_a_prompt_is_as_long_as_the_texts_of_its_messages() -> None:
    turns = (Message("system", "Be kind."), Message("user", "Hi\n"), Message("assistant", "", '{"tool_calls":[]}'))
    assert Pair(turns, "yes", "n\U0001f642").lengths == (11, 3, 2)
    assert Pair("12345", "", "1").lengths == (5, 0, 1)


def test_margins_are_counted_in_bins_of_a_round_width(tmp_path: Path) -> None:
    given = [{**row, "margin": i / 4 - 1} for i, row in enumerate(rows(17))]
    bins = ingest(tmp_path, given)["histograms"]
    assert bins["margin"]["edges"] == [-1.0, -0.8, -0.6, -0.4, -0.2, 0.0, *(step / 5 for step in range(1, 16))]
    assert bins["margin"]["pairs"] == [1] * 5 + [0, 1, 1, 1, 1] * 3
    assert "weight" not in bins


def test_one_weight_for_all_pairs_is_one_bin(tmp_path: Path) -> None:
    bins = ingest(tmp_path, rows(weight=2))["histograms"]["weight"]
    assert bins == {"edges": [2.0, 2.0], "pairs": [30]}


def test_columns_that_were_ignored_on_purpose_are_told_from_those_that_nothing_read(tmp_path: Path) -> None:
    metrics = ingest(tmp_path, rows(tools=["boil"], id=1, system="Be kind."), ignore=("tools", "system", "absent"))
    assert metrics["columns_not_read"] == {"a.jsonl": ["id"]}
    assert metrics["columns_ignored"] == {"a.jsonl": ["system", "tools"]}
    assert metrics["rows_by_source"] == {"a.jsonl": 30}
