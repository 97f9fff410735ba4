"""What entries say of their pairs: weights, limits, sides, and the same share of every source."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks import ingest as stage
from tasks.core.errors import ConfigError, DataError
from tests.pairs.samples import folder_bytes, read_lines, write_rows
from tests.stages.ingested import stored
from tests.stages.test_source_entries import config, ingest

Row = dict[str, Any]


def rows(*numbers: int, **more: Any) -> list[Row]:
    return [{"prompt": f"Question {i}?", "chosen": f"yes {i}", "rejected": "no", **more} for i in numbers]


def entry(path: Path, content: list[Row], **keys: Any) -> dict[str, Any]:
    return {"path": str(write_rows(path, content)), **keys}


def prompts(out: Path, side: str) -> set[int]:
    return {int(str(pair.prompt)[9:-1]) for pair in stored(out, side)}


def reasons(out: Path) -> Counter[str]:
    return Counter(line["reason"] for line in read_lines(out / "rejects.jsonl"))


# weights and limits


def test_a_source_s_weight_multiplies_those_of_its_pairs(tmp_path: Path) -> None:
    heavy = entry(tmp_path / "a.jsonl", [*rows(0, weight=4.0), *rows(*range(1, 30))], weight=0.25)
    metrics = ingest(tmp_path / "out", heavy, entry(tmp_path / "b.jsonl", rows(*range(30, 60), weight=3.0)))
    weights = {int(str(pair.prompt)[9:-1]): pair.weight for pair in stored(tmp_path / "out")}
    assert weights == {0: 1.0} | dict.fromkeys(range(1, 30), 0.25) | dict.fromkeys(range(30, 60), 3.0)
    assert metrics["weight"] == {"pairs": 59, "min": 0.25, "mean": round((1 + 29 / 4 + 90) / 60, 5), "max": 3.0}


def test_a_weight_that_no_float_of_32_bits_holds_is_refused_with_the_row(tmp_path: Path) -> None:
    tiny = [*rows(*range(30)), *rows(30, weight=1e-30)]
    with pytest.raises(DataError, match=r"a.jsonl:31 has the weight 1e-30, and `ingest.sources\[1\].weight` is 1e-20"):
        ingest(tmp_path / "out", "demo", entry(tmp_path / "a.jsonl", tiny, weight=1e-20))
    ingest(tmp_path / "out", "demo", entry(tmp_path / "a.jsonl", tiny, weight=1e-5))


def test_a_repeated_row_differs_by_its_source_s_weight(tmp_path: Path) -> None:
    first = entry(tmp_path / "a.jsonl", rows(*range(40)), weight=2)
    ingest(tmp_path / "out", first, entry(tmp_path / "b.jsonl", rows(0, 1), weight=1))
    details = [line["detail"] for line in read_lines(tmp_path / "out/rejects.jsonl")]
    assert all("with weight 2 and margin 0; here they are 1 and 0" in detail for detail in details)
    assert reasons(tmp_path / "out") == {"duplicate_differs": 2}


def test_a_source_s_limit_keeps_a_fixed_choice_of_its_pairs_and_touches_no_other(tmp_path: Path) -> None:
    long = rows(*range(200))
    limited = entry(tmp_path / "a.jsonl", [*long, *long[:5]], limit=50)
    other = entry(tmp_path / "b.jsonl", rows(*range(200, 260)))
    metrics = ingest(tmp_path / "out", limited, other)
    assert metrics["left_out"]["over_limit"] + metrics["left_out"]["duplicate"] == 155
    chosen = {pair.pair_id for pair in stored(tmp_path / "out") if pair.source.startswith("a.jsonl")}
    assert len(chosen) == 50
    assert sum(pair.source.startswith("b.jsonl") for pair in stored(tmp_path / "out")) == 60

    ingest(tmp_path / "less", {**limited, "limit": 30}, other)
    fewer = {pair.pair_id for pair in stored(tmp_path / "less") if pair.source.startswith("a.jsonl")}
    assert fewer == set(sorted(chosen)[:30])
    both = ingest(tmp_path / "both", limited, other, limit=70)
    assert sum(both["pairs"].values()) == 70


def test_a_pair_beyond_one_source_s_limit_stays_in_another_source(tmp_path: Path) -> None:
    limited = entry(tmp_path / "a.jsonl", rows(*range(60)), limit=10)
    metrics = ingest(tmp_path / "out", limited, entry(tmp_path / "b.jsonl", rows(*range(60))))
    assert sum(metrics["pairs"].values()) == 60
    assert (metrics["left_out"]["over_limit"], metrics["left_out"]["duplicate"]) == (50, 10)


def test_a_folder_s_limit_is_that_of_all_its_files(tmp_path: Path) -> None:
    for number in range(3):
        write_rows(tmp_path / f"votes/{number}.jsonl", rows(*range(number * 30, number * 30 + 30)))
    metrics = ingest(tmp_path / "out", {"path": str(tmp_path / "votes"), "limit": 40})
    assert sum(metrics["pairs"].values()) == 40


# sides


def test_a_test_source_is_tested_on_and_its_prompts_are_never_trained_on(tmp_path: Path) -> None:
    ours = rows(*range(60))
    theirs = [*rows(*range(5), chosen="other"), *rows(100, 101)]
    theirs[0]["prompt"] = "question 0"  # the same words
    metrics = ingest(
        tmp_path / "out",
        entry(tmp_path / "a.jsonl", ours),
        entry(tmp_path / "t.jsonl", theirs, split="test"),
        test_share=0,
    )
    assert {pair.source for pair in stored(tmp_path / "out", "test")} == {f"t.jsonl:{i}" for i in range(1, 8)}
    assert prompts(tmp_path / "out", "train") == set(range(5, 60))
    assert metrics["left_out"]["in_test_source"] == reasons(tmp_path / "out")["in_test_source"] == 5
    assert metrics["left_out"]["rejected"] == 0
    (line, *_) = read_lines(tmp_path / "out/rejects.jsonl")
    assert (line["source"], "`split: test`" in line["detail"]) == ("a.jsonl:1", True)


@pytest.mark.parametrize("is_test_first", [True, False])
def test_a_pair_of_a_train_and_a_test_source_is_the_test_source_s(tmp_path: Path, is_test_first: bool) -> None:
    same = [
        entry(tmp_path / "t.jsonl", rows(*range(10)), split="test"),
        entry(tmp_path / "a.jsonl", rows(*range(60)), split="train"),
    ]
    metrics = ingest(tmp_path / "out", *(same if is_test_first else same[::-1]))
    assert prompts(tmp_path / "out", "test") == set(range(10))
    assert prompts(tmp_path / "out", "train") == set(range(10, 60))
    assert metrics["left_out"]["in_test_source"] == 10
    assert metrics["left_out"]["duplicate"] == 0


def test_what_other_sources_say_of_a_test_prompt_contradicts_nothing(tmp_path: Path) -> None:
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows(*range(10))]
    mixed = entry(tmp_path / "a.jsonl", [*swapped, *rows(*range(10, 60))])
    metrics = ingest(tmp_path / "out", mixed, entry(tmp_path / "t.jsonl", rows(*range(10)), split="test"), test_share=0)
    assert metrics["contradictory_pairs"] == 0
    assert prompts(tmp_path / "out", "test") == set(range(10))


def test_a_train_source_s_prompts_are_trained_on_in_all_sources(tmp_path: Path) -> None:
    sure = entry(tmp_path / "a.jsonl", rows(*range(60)), split="train")
    metrics = ingest(tmp_path / "out", sure, entry(tmp_path / "b.jsonl", rows(*range(120), chosen="b")), test_share=0.3)
    assert set(range(60)) <= prompts(tmp_path / "out", "train")
    assert prompts(tmp_path / "out", "test") <= set(range(60, 120))
    assert metrics["pairs"]["test"] > 5
    alone = ingest(tmp_path / "alone", str(tmp_path / "b.jsonl"), test_share=0.3)
    assert prompts(tmp_path / "out", "test") == prompts(tmp_path / "alone", "test") - set(range(60))
    assert alone["left_out"]["in_test_source"] == 0


def test_a_prompt_beyond_the_limit_of_a_test_source_is_not_trained_on(tmp_path: Path) -> None:
    test = entry(tmp_path / "t.jsonl", rows(*range(20)), split="test", limit=5)
    metrics = ingest(tmp_path / "out", entry(tmp_path / "a.jsonl", rows(*range(60), chosen="a")), test, test_share=0)
    assert metrics["pairs"] == {"train": 40, "test": 5}
    assert prompts(tmp_path / "out", "train") == set(range(20, 60))


def test_thumbs_of_a_test_source_are_test_pairs(tmp_path: Path) -> None:
    thumbs = [
        {"prompt": f"Question {i}?", "completion": word, "label": word == "good"}
        for i in range(20)
        for word in ("good", "bad")
    ]
    test = entry(tmp_path / "t.jsonl", thumbs, split="test", weight=0.5)
    ingest(tmp_path / "out", entry(tmp_path / "a.jsonl", rows(*range(20, 60))), test, test_share=0)
    assert prompts(tmp_path / "out", "test") == set(range(20))
    assert {pair.weight for pair in stored(tmp_path / "out", "test")} == {0.5}


def test_one_file_with_a_column_of_splits_is_two_entries(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [*rows(*range(50), fold="train"), *rows(*range(50, 60), fold="test")])
    entries = [{"path": str(path), "where": {"fold": side}, "split": side} for side in ("train", "test")]
    ingest(tmp_path / "out", *entries, test_share=0)
    assert (prompts(tmp_path / "out", "train"), prompts(tmp_path / "out", "test")) == (
        set(range(50)),
        set(range(50, 60)),
    )


def test_without_a_test_source_a_share_of_0_is_refused_and_the_advice_helps(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`ingest.test_share` is 0.0 — .*split: test"):
        config("demo", test_share=0.0)
    ingest(tmp_path / "out", "demo", entry(tmp_path / "t.jsonl", rows(1, 2, 3), split="test"), test_share=0)


def test_a_test_source_that_has_every_prompt_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    test = entry(tmp_path / "t.jsonl", rows(*range(40)), split="test")
    with pytest.raises(
        DataError, match=r"30 pairs have prompts that stand in sources with `split: test`, which leaves 0 train"
    ):
        stage.run(stage.Folders(tmp_path / "out"), config(entry(tmp_path / "a.jsonl", rows(*range(30))), test))
    ingest(tmp_path / "out", entry(tmp_path / "a.jsonl", rows(*range(30, 60))), test)


# stratified


def test_stratified_every_source_holds_out_the_share_exact_to_one_prompt(tmp_path: Path) -> None:
    sizes = {"a": 200, "b": 37, "c": 9}
    entries, start = [], 0
    for name, size in sizes.items():
        numbers = range(start, start + size)
        doubled = [*rows(*numbers), *rows(*numbers, chosen="another")]
        entries.append(entry(tmp_path / f"{name}.jsonl", doubled))
        start += size
    entries[2]["path"] = str(write_rows(tmp_path / "c.jsonl", [*rows(*range(237, 246)), *rows(*range(50), chosen="c")]))
    ingest(tmp_path / "out", *entries, stratify=True, test_share=0.2)
    held = prompts(tmp_path / "out", "test")
    firsts = [(0, 200), (200, 237), (237, 246)]  # c's further prompts stand in a first
    assert [len(held & set(range(*bounds))) for bounds in firsts] == [40, 7, 2]

    ingest(tmp_path / "again", *entries, stratify=True, test_share=0.2)
    assert folder_bytes(tmp_path / "again") == folder_bytes(tmp_path / "out")
    ingest(tmp_path / "more", *entries, stratify=True, test_share=0.5)
    assert held < prompts(tmp_path / "more", "test")


def test_stratified_counts_the_prompts_that_are_kept_and_no_others(tmp_path: Path) -> None:
    limited = entry(tmp_path / "a.jsonl", rows(*range(100)), limit=40)
    sure = entry(tmp_path / "b.jsonl", rows(*range(200, 230)), split="train")
    test = entry(tmp_path / "t.jsonl", rows(*range(300, 310)), split="test")
    ingest(tmp_path / "out", limited, sure, test, stratify=True, test_share=0.25)
    held = prompts(tmp_path / "out", "test")
    assert (len(held & set(range(100))), held >= set(range(300, 310)), len(held)) == (10, True, 20)
    assert json.loads((tmp_path / "out/metrics.json").read_text())["pairs"] == {"train": 60, "test": 20}
