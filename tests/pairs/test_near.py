"""Near-duplicate prompts stand on one side of the split."""

from __future__ import annotations

import collections
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.core.errors import DataError
from tasks.pairs.ingestion.near import NEAR, NEITHER, TEST, TRAIN, Prompts, near_sides, signature
from tests.pairs.samples import read_lines, write_rows
from tests.stages.ingested import sides_of, stored
from tests.stages.test_source_entries import ingest

WORDS = [
    "".join(letters)
    for letters in zip(*(random.Random(i).choices("abdegiklmnoprstuv", k=400) for i in range(6)), strict=True)
]


def text(seed: int, words: int = 30) -> str:
    """A made-up prompt's letters; those of two seeds have next to nothing in common."""
    return "".join(random.Random(seed).choices(WORDS, k=words))


def similarity(one: str, two: str) -> float:
    """The Jaccard similarity of the runs of five letters."""
    first, second = ({letters[i : i + 5] for i in range(len(letters) - 4)} for letters in (one, two))
    return len(first & second) / len(first | second)


def variants(count: int, low: float, high: float) -> list[tuple[str, str]]:
    """Prompts and copies of them with changed letters, whose similarity lies in a range."""
    draw, found = random.Random(0), []
    for seed in range(count):
        copy = list(one := text(seed))
        places = iter(draw.sample(range(len(one)), len(one)))
        while similarity(one, "".join(copy)) > high:
            copy[next(places)] = draw.choice("xyz")
        if similarity(one, "".join(copy)) >= low:
            found.append((one, "".join(copy)))
    return found


def sides(*letters: str, own: list[int], tested: int = 0, bound: tuple[int, ...] = ()) -> list[int]:
    """The sides of prompts, of which the first ``tested`` stand in a test source, and some cannot move."""
    is_tested = np.arange(len(letters)) < tested
    is_free = ~is_tested & ~np.isin(np.arange(len(letters)), bound)
    return near_sides(Prompts.of(letters), np.array(own), is_tested, is_free)[0].tolist()


def test_at_least_99_in_100_of_the_pairs_that_are_just_near_are_found_and_none_that_is_not() -> None:
    for low, high, expected in ((NEAR, 0.85, True), (0.6, 0.79, False)):
        pairs = variants(400, low, high)
        assert len(pairs) > 300
        prompts = Prompts.of(letters for pair in pairs for letters in pair)
        flags = np.zeros(len(pairs) * 2, np.bool_)
        _, is_near = near_sides(prompts, flags.astype(int), flags, ~flags)
        share = is_near[1::2].mean()
        assert share >= 0.99 if expected else share == 0
        assert not is_near[::2].any()


def test_a_prompt_takes_the_side_of_the_earlier_ones_and_is_left_out_between_two() -> None:
    first = text(0, 40)
    copies = [first[:-1] + letter for letter in "wxyz"]
    assert sides(first, *copies, own=[TEST, TRAIN, TEST, TRAIN, TRAIN]) == [TEST] * 5
    cut = len(first) * 13 // 100
    begin, end = first[:-cut], first[cut:]
    assert similarity(begin, first) > NEAR > similarity(begin, end) > 0.7
    assert sides(begin, end, first, own=[TRAIN, TEST, TEST]) == [TRAIN, TEST, NEITHER]
    assert sides(begin, end, first, own=[TEST, TEST, TRAIN]) == [TEST, TEST, TEST]


def test_a_prompt_near_to_a_test_source_s_is_left_out_and_so_is_a_bound_one_near_to_test() -> None:
    first = text(0)
    copy = first[:-1] + "x"
    assert sides(first, copy, own=[TEST, TRAIN], tested=1) == [TEST, NEITHER]
    assert sides(first, copy, own=[TEST, TRAIN], bound=(1,)) == [TEST, NEITHER]
    assert sides(first, copy, own=[TRAIN, TRAIN], bound=(1,)) == [TRAIN, TRAIN]
    assert sides(first, copy, own=[TEST, TEST], tested=2) == [TEST, TEST]


def test_later_prompts_never_move_earlier_ones() -> None:
    draw = random.Random(0)
    slots = [f"{a}{b}" for a in WORDS[:12] for b in WORDS[12:20]]
    letters = list(dict.fromkeys(text(1, 8) + draw.choice(slots) + text(2, 8) + draw.choice(slots) for _ in range(600)))
    own = [draw.random() < 0.3 for _ in letters]
    whole = sides(*letters, own=list(map(int, own)))
    assert len(set(whole)) == 3
    for count in (50, 200, 400):
        assert sides(*letters[:count], own=list(map(int, own[:count]))) == whole[:count]


def test_short_and_other_scripts_have_signatures_of_one_length() -> None:
    assert {len(signature(letters)) for letters in ("a", "", "abcd", "请告诉我中国最长的河流", text(0))} == {512}
    assert sides("请告诉我中国最长的河流是哪一条", "ab", "ab c", "abd", own=[0, 0, 1, 1]) == [0, 0, 1, 1]


# the stage


def rows(count: int, endings: tuple[str, ...]) -> list[dict[str, Any]]:
    """Prompts with further words or none at the end; the slice says which belong together."""
    return [
        {"prompt": f"{text(i, 12)} {text(i + 1000, 12)}{ending}", "chosen": "a", "rejected": "b", "slice": str(i)}
        for ending in endings
        for i in range(count)
    ]


def test_near_copies_of_a_prompt_never_leak_with_minhash_and_are_counted(tmp_path: Path) -> None:
    source = str(write_rows(tmp_path / "a.jsonl", rows(60, ("", " now", " today, please?"))))
    metrics = ingest(tmp_path / "out", source, near_duplicates="minhash", test_share=0.3)
    train, test = ({pair.slice for pair in stored(tmp_path / "out", side)} for side in ("train", "test"))
    assert not train & test
    assert (metrics["near_duplicates"], metrics["rejected"]) == ({"words": 0, "minhash": 120}, {})
    assert sum(metrics["pairs"].values()) == 180
    words = ingest(tmp_path / "words", source, test_share=0.3)
    assert words["near_duplicates"] == {"words": 0, "minhash": 0}
    assert {pair.slice for pair in stored(tmp_path / "words", "train")} & {
        pair.slice for pair in stored(tmp_path / "words", "test")
    }


def test_prompts_of_the_same_words_are_counted(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", [*rows(40, ("",)), *rows(10, ("!",))])
    assert ingest(tmp_path / "out", str(source))["near_duplicates"] == {"words": 10, "minhash": 0}


def test_appended_rows_move_none_of_the_earlier_ones(tmp_path: Path) -> None:
    made = rows(100, ("", " now"))
    for name, some in (("old", made[:120]), ("new", made)):
        source = write_rows(tmp_path / f"{name}.jsonl", some)
        ingest(tmp_path / name, str(source), near_duplicates="minhash", test_share=0.4)
    assert sides_of(tmp_path / "old").items() <= sides_of(tmp_path / "new").items()


def test_what_is_near_to_both_sides_is_left_out_and_listed(tmp_path: Path) -> None:
    draw = random.Random(3)
    slots = [text(i, 2) for i in range(100, 112)]
    made = [
        {"prompt": " ".join((text(1, 9), draw.choice(slots), text(2, 9), draw.choice(slots))), "chosen": f"{i}"}
        for i in range(300)
    ]
    source = write_rows(tmp_path / "a.jsonl", [{**row, "rejected": "b"} for row in made])
    metrics = ingest(tmp_path / "out", str(source), near_duplicates="minhash", test_share=0.4)
    listed = collections.Counter(row["reason"] for row in read_lines(tmp_path / "out/rejects.jsonl"))
    assert listed == {"near_both_sides": metrics["left_out"]["near_both_sides"]}
    assert listed.total() > 0


def test_prompts_that_are_all_near_to_each_other_are_refused_and_the_advice_helps(tmp_path: Path) -> None:
    made = [{"prompt": f"{text(1, 60)} {i}", "chosen": "a", "rejected": "b"} for i in range(60)]
    source = str(write_rows(tmp_path / "a.jsonl", made))
    with pytest.raises(DataError, match="59 pairs have prompts that are near to an earlier one") as refusal:
        ingest(tmp_path / "out", source, near_duplicates="minhash")
    assert "set `ingest.near_duplicates: words`" in str(refusal.value)
    ingest(tmp_path / "out", source, near_duplicates="words")


def test_prompts_near_to_those_of_a_test_source_are_left_out(tmp_path: Path) -> None:
    test = write_rows(tmp_path / "test.jsonl", rows(20, (" now",)))
    train = write_rows(tmp_path / "train.jsonl", rows(60, ("",)))
    entry = {"path": str(test), "split": "test"}
    metrics = ingest(tmp_path / "out", str(train), entry, near_duplicates="minhash", test_share=0)
    assert metrics["pairs"] == {"train": 40, "test": 20}
    assert metrics["left_out"]["near_both_sides"] == 20


@pytest.mark.parametrize("settings", [{"stratify": True}, {"limit": 60}, {"contradictions": "keep", "split_seed": 3}])
def test_near_copies_stay_together_beside_other_settings(settings: dict[str, Any], tmp_path: Path) -> None:
    source = str(write_rows(tmp_path / "a.jsonl", rows(60, ("", " now"))))
    metrics = ingest(tmp_path / "out", source, near_duplicates="minhash", test_share=0.3, **settings)
    train, test = ({pair.slice for pair in stored(tmp_path / "out", side)} for side in ("train", "test"))
    assert not train & test
    assert metrics["near_duplicates"]["minhash"] > 0
