"""Published preference data through the ingest stage, as they are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import DataError
from tasks.ingest import IngestConfig
from tasks.pairs.record.pair import Columns
from tests.pairs.samples import read_lines
from tests.stages.ingested import ingest, run, stored


def test_hh_rlhf_as_published_rejects_exactly_its_thirteen_odd_rows(shared: Path, tmp_path: Path) -> None:
    folder = shared / "preferences/hh-rlhf-harmless-base-test"
    metrics = ingest(tmp_path / "out", folder / "raw/test.jsonl.gz")
    assert metrics["rows_read"] == 2312
    assert sum(metrics["pairs"].values()) == 2299
    reasons = {line["source"].split(":")[1]: line["reason"] for line in read_lines(tmp_path / "out/rejects.jsonl")}
    odd = {str(int(row["id"].removeprefix("hh-")) + 1): row["why"] for row in read_lines(folder / "odd.jsonl.gz")}
    words = {
        "empty_chosen": "last reply is empty",
        "two_turns_of_one_role": "two turns of one role in a row",
        "prompts_differ": "differ before the last reply",
    }
    assert reasons.keys() == odd.keys()
    for line, reason in reasons.items():
        assert any(words[reason] in why for why in odd[line])


def test_hh_rlhf_as_published_gives_the_pairs_that_a_careful_reader_cut_by_hand(shared: Path, tmp_path: Path) -> None:
    folder = shared / "preferences/hh-rlhf-harmless-base-test"
    ingest(tmp_path / "raw", folder / "raw/test.jsonl.gz")
    ingest(tmp_path / "cut", folder / "pairs.jsonl.gz")
    for side in ("train", "test"):
        assert [pair.pair_id for pair in stored(tmp_path / "raw", side)] == [
            pair.pair_id for pair in stored(tmp_path / "cut", side)
        ]


def test_pandalm_s_true_is_no_text_and_its_empty_replies_are_rejected(shared: Path, tmp_path: Path) -> None:
    folder = shared / "preferences/pandalm-testset-v1"
    metrics = ingest(tmp_path / "out", folder / "pairs.jsonl.gz", folder / "odd.jsonl.gz")
    assert metrics["rejected"] == {"empty_chosen": 1, "empty_rejected": 51, "not_text": 6}
    details = {row["detail"] for row in read_lines(tmp_path / "out/rejects.jsonl") if row["reason"] == "not_text"}
    assert details == {"`chosen` is the JSON value true"}
    assert metrics["left_out"]["duplicate"] == 76  # 106 repeated rows, 30 of them with an empty reply


def test_qa_feedback_with_six_pairs_a_prompt_is_split_by_prompt(shared: Path, tmp_path: Path) -> None:
    metrics = ingest(tmp_path / "out", shared / "preferences/qa-feedback-dev/pairs.jsonl.gz")
    train, test = ({pair.prompt_id for pair in stored(tmp_path / "out", side)} for side in ("train", "test"))
    assert len(train) + len(test) == sum(metrics["prompts"].values()) == 488
    assert not train & test


def test_sharegpt_files_as_published_give_the_pairs_of_the_common_form(shared: Path, tmp_path: Path) -> None:
    folder = shared / "preferences/dpo-demo-en-zh"
    metrics = ingest(tmp_path / "raw", folder / "raw/dpo_*_demo.json.gz")
    assert (metrics["rows_read"], metrics["left_out"]["duplicate"], metrics["rejected"]) == (600, 16, {})
    ingest(tmp_path / "common", folder / "pairs.jsonl.gz")
    assert {p.pair_id for p in stored(tmp_path / "raw")} == {p.pair_id for p in stored(tmp_path / "common")}


def test_thumbs_of_which_one_prompt_has_opposite_ones_are_one_pair(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 training and 0 test pairs"):
        run(tmp_path / "out", IngestConfig((str(shared / "preferences/dpo-demo-en-zh/raw/kto_en_demo.json.gz"),)))


@pytest.mark.parametrize(
    ("raw", "common", "left_out"),
    [
        ("pandalm-testset-v1/raw/testset-v1.json.gz", "pandalm-testset-v1", {"rejected": 58, "no_preference": 105}),
        ("qa-feedback-dev/raw/dev_feedback.json.gz", "qa-feedback-dev", {"rejected": 0, "no_preference": 384}),
        ("blimp-minimal-pairs/raw/BLiMP.zip", "blimp-minimal-pairs", {"rejected": 7984, "no_preference": 0}),
    ],
)
def test_votes_and_minimal_pairs_as_published_give_the_replies_of_the_common_form(
    raw: str, common: str, left_out: dict[str, int], shared: Path, tmp_path: Path
) -> None:
    metrics = ingest(tmp_path / "raw", shared / "preferences" / raw, max_rejected_share=0.2)
    assert {name: metrics["left_out"][name] for name in left_out} == left_out
    ingest(tmp_path / "common", shared / "preferences" / common / "pairs.jsonl.gz", max_rejected_share=0.2)
    replies = [{(p.chosen, p.rejected) for p in stored(tmp_path / name)} for name in ("raw", "common")]
    assert replies[0] == replies[1]


def test_a_filter_and_a_limit_leave_a_fixed_random_choice(shared: Path, tmp_path: Path) -> None:
    source = shared / "preferences/blimp-minimal-pairs/pairs.jsonl.gz"
    asked: dict[str, Any] = {"where": {"meta.field": "morphology"}, "columns": Columns(slice="meta.paradigm")}
    metrics = ingest(tmp_path / "out", source, limit=2400, **asked)
    assert sum(metrics["pairs"].values()) == 2400
    assert metrics["left_out"]["filtered"] == 59016 - 18000
    assert metrics["slices_found"] == 18  # of all paradigms something, not of the first ones everything
    pairs = stored(tmp_path / "out")
    assert max(pair.pair_id for pair in pairs) < "3"  # the 2,400 smallest of 18,000 hashes
