"""The ingest stage on real and on bad input: every row accounted for, or one clear line."""

from __future__ import annotations

import collections
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tasks import ingest as stage
from tasks.core.errors import ConfigError, DataError
from tasks.core.params import build, load_params
from tasks.ingest import IngestConfig
from tasks.pairs.record.pair import Columns, Pair
from tasks.pairs.record.parquet import stored_pairs
from tests.conftest import ROOT
from tests.pairs.samples import chat, folder_bytes, read_lines, text_rows, write_rows

OUTPUTS = ["manifest.json", "metrics.json", "rejects.jsonl", "test.parquet", "train.parquet"]


def run(out: Path, config: IngestConfig) -> dict[str, Any]:
    return stage.run(stage.Folders(out), config)


def ingest(out: Path, *sources: Path | str, **config: Any) -> dict[str, Any]:
    metrics = run(out, IngestConfig(tuple(map(str, sources)), **config))
    assert sorted(path.name for path in out.iterdir()) == OUTPUTS
    assert metrics["outcomes"] == sum(metrics["pairs"].values()) + sum(metrics["left_out"].values())
    assert metrics == json.loads((out / "metrics.json").read_text())
    listed = collections.Counter(line["reason"] for line in read_lines(out / "rejects.jsonl"))
    left = metrics["left_out"]
    assert sum(listed.values()) == sum(left.values()) - left["filtered"] - left["over_limit"]
    assert {reason: listed[reason] for reason in metrics["rejected"]} == metrics["rejected"]
    return metrics


def stored(out: Path, *sides: str) -> list[Pair]:
    return [
        pair for side in sides or ("train", "test") for batch in stored_pairs(out / f"{side}.parquet") for pair in batch
    ]


def sides_of(out: Path) -> dict[str, str]:
    return {pair.prompt_id: side for side in ("train", "test") for pair in stored(out, side)}


# real input


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


def test_the_demo_s_pairs_are_all_kept(tmp_path: Path) -> None:
    metrics = ingest(tmp_path / "out", "demo")
    assert metrics["rows_read"] == sum(metrics["pairs"].values()) == 1400
    assert metrics["slices_found"] > 1


# rules


def test_running_twice_gives_the_same_bytes(shared: Path, tmp_path: Path) -> None:
    source = shared / "preferences/pandalm-testset-v1/pairs.jsonl.gz"
    for name in ("first", "second"):
        ingest(tmp_path / name, source, "demo")
    assert folder_bytes(tmp_path / "first") == folder_bytes(tmp_path / "second")


def test_new_data_never_move_old_rows(shared: Path, tmp_path: Path) -> None:
    source = shared / "preferences/qa-feedback-dev/pairs.jsonl.gz"
    rows = list(read_lines(source))
    ingest(tmp_path / "old", write_rows(tmp_path / "a.jsonl", rows[1000:2000]))
    ingest(tmp_path / "new", write_rows(tmp_path / "b.jsonl", rows[2000:]), source)
    assert sides_of(tmp_path / "old").items() <= sides_of(tmp_path / "new").items()


def test_what_is_stored_is_what_was_read(tmp_path: Path) -> None:
    rows = [*text_rows(40), {"prompt": "中文\r\n", "chosen": " é\t", "rejected": "🙂\u2028", "slice": "odd"}]
    source = write_rows(tmp_path / "a.jsonl", rows)
    ingest(tmp_path / "out", source)
    found = {pair.source: pair for pair in stored(tmp_path / "out")}
    assert found["a.jsonl:41"] == Pair("中文\r\n", " é\t", "🙂\u2028", "odd", "a.jsonl:41")
    assert list(found) != sorted(found)  # in the order of the source, within each side
    table = pq.read_table(tmp_path / "out/train.parquet")
    assert not any(prompt.startswith("[") for prompt in table.column("prompt").to_pylist())


def test_texts_and_folders_that_a_database_might_misread_are_kept_as_they_are(tmp_path: Path) -> None:
    rows = [*text_rows(40), {"prompt": "nul \0 and ' quote", "chosen": "a\0b", "rejected": "$limit", "slice": "s\0"}]
    folder = tmp_path / "a[b]*'?{c}"
    folder.mkdir()
    metrics = ingest(folder / "out", write_rows(tmp_path / "a.jsonl", rows))
    assert {name.rstrip("\0") for name in metrics["slices"]} >= {"s"}
    assert len(stored(folder / "out")) == 41
    assert [pair.rejected for pair in stored(folder / "out") if pair.chosen == "a\0b"] == ["$limit"]


def test_characters_are_counted_as_python_counts_them(tmp_path: Path) -> None:
    rows = [{**row, "chosen": "é🙂👨‍👩‍👧", "rejected": f"中{i % 10}"} for i, row in enumerate(text_rows(40))]
    metrics = ingest(tmp_path / "out", write_rows(tmp_path / "a.jsonl", rows))
    assert metrics["characters_mean"] == {"prompt": 11.75, "chosen": 7.0, "rejected": 2.0}
    assert metrics["chosen_longer_share"] == 1.0


def test_conversations_are_stored_as_messages(tmp_path: Path) -> None:
    row = {"chosen": "\n\nHuman: A\n\nAssistant: B\n\nHuman: C\n\nAssistant: D"}
    rows = [
        {"chosen": row["chosen"].replace("A", f"A{i}", 1), "rejected": row["chosen"].replace("A", f"A{i}", 1) + "!"}
        for i in range(30)
    ]
    ingest(tmp_path / "out", write_rows(tmp_path / "a.jsonl", rows))
    first = min(stored(tmp_path / "out"), key=lambda pair: int(pair.source.split(":")[1]))
    assert (first.prompt, first.chosen, first.rejected) == (chat("A0", "B", "C"), "D", "D!")


def test_a_duplicate_is_rejected_and_a_contradiction_drops_both_rows(tmp_path: Path) -> None:
    same = {"prompt": "P", "chosen": "a", "rejected": "b"}
    swapped = {"prompt": "P", "chosen": "b", "rejected": "a"}
    source = write_rows(tmp_path / "a.jsonl", [same, *text_rows(60), same, swapped])
    dropped = ingest(tmp_path / "drop", source)
    assert {name: count for name, count in dropped["left_out"].items() if count} == {"duplicate": 1, "contradiction": 2}
    lines = [(row["source"], row["reason"]) for row in read_lines(tmp_path / "drop/rejects.jsonl")]
    assert lines == [("a.jsonl:62", "duplicate"), ("a.jsonl:1", "contradiction"), ("a.jsonl:63", "contradiction")]
    kept = ingest(tmp_path / "keep", source, contradictions="keep")
    assert sum(kept["pairs"].values()) == 62
    assert kept["contradictory_pairs"] == 2


def test_weight_and_margin_are_stored_and_counted_over_all_pairs(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*text_rows(40)]
    rows[3] |= {"weight": 0.1, "margin": -2}
    rows[5] |= {"weight": 3}
    metrics = ingest(tmp_path / "out", write_rows(tmp_path / "a.jsonl", rows))
    found = {pair.source: (pair.weight, pair.margin) for pair in stored(tmp_path / "out")}
    assert found.pop("a.jsonl:4") == (0.1, -2.0)
    assert found.pop("a.jsonl:6") == (3.0, 0.0)
    assert set(found.values()) == {(1.0, 0.0)}
    assert metrics["weight"] == {"pairs": 2, "min": 0.1, "mean": 1.0275, "max": 3.0}  # (38 + 0.1 + 3) / 40
    assert metrics["margin"] == {"pairs": 1, "min": -2.0, "mean": -0.05, "max": 0.0}


def test_without_weights_and_margins_the_metrics_say_nothing_of_them(tmp_path: Path) -> None:
    metrics = ingest(
        tmp_path / "out", write_rows(tmp_path / "a.jsonl", [{**row, "weight": 1} for row in text_rows(40)])
    )
    assert "weight" not in metrics
    assert "margin" not in metrics


def test_numbers_in_a_csv_file_are_read_and_a_bad_one_is_a_rejected_row(tmp_path: Path) -> None:
    lines = ["prompt,chosen,rejected,weight,margin", *(f"P{i},a,b,{i / 2},{-i}" for i in range(40)), "Q,a,b,,"]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    assert ingest(tmp_path / "out", tmp_path / "a.csv")["rejected"] == {"bad_weight": 1}
    (told,) = read_lines(tmp_path / "out/rejects.jsonl")
    assert (told["source"], told["reason"]) == ("a.csv:2", "bad_weight")
    found = {pair.source: (pair.weight, pair.margin) for pair in stored(tmp_path / "out")}
    assert (found["a.csv:5"], found["a.csv:42"]) == ((1.5, -3.0), (1.0, 0.0))


def test_a_repeated_pair_with_another_weight_is_listed_as_such_and_the_first_row_stands(tmp_path: Path) -> None:
    row = {"prompt": "P", "chosen": "a", "rejected": "b"}
    repeated = [{**row, "margin": 2}, {**row, "margin": 2.0}, {**row, "margin": 2, "weight": 3}, row]
    metrics = ingest(tmp_path / "out", write_rows(tmp_path / "a.jsonl", [*repeated, *text_rows(60)]))
    assert (metrics["left_out"]["duplicate"], metrics["rejected"]) == (1, {"duplicate_differs": 2})
    told = [(line["source"], line["detail"]) for line in read_lines(tmp_path / "out/rejects.jsonl")]
    assert [source for source, _ in told] == ["a.jsonl:2", "a.jsonl:3", "a.jsonl:4"]
    assert told[1][1].endswith("stands in an earlier row with weight 1 and margin 2; here they are 3 and 2")
    assert told[2][1].endswith("here they are 1 and 0")
    assert [pair.margin for pair in stored(tmp_path / "out") if pair.prompt == "P"] == [2.0]


def test_chosen_and_rejected_can_be_swapped_on_purpose(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(40))
    ingest(tmp_path / "right", source)
    ingest(tmp_path / "swapped", source, columns=Columns(chosen="rejected", rejected="chosen"))
    right, swapped = stored(tmp_path / "right"), stored(tmp_path / "swapped")
    assert [pair.swapped_id for pair in right] == [pair.pair_id for pair in swapped]
    assert sides_of(tmp_path / "right") == sides_of(tmp_path / "swapped")


def test_a_broken_line_in_the_middle_is_rejected_with_its_number(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(60))
    lines = source.read_text().splitlines()
    lines[29] = lines[29][:-5]
    source.write_text("\n".join(lines))
    assert ingest(tmp_path / "out", source)["rejected"] == {"broken_row": 1}
    (told,) = read_lines(tmp_path / "out/rejects.jsonl")
    assert (told["source"], told["reason"]) == ("a.jsonl:30", "broken_row")


def test_the_params_file_s_section_is_the_config_s_defaults() -> None:
    for path in (ROOT / "params.yaml", ROOT / "params.d/ingest.yaml"):
        if path.is_file():
            section = load_params(path)["ingest"]
            assert build(IngestConfig, section, "ingest").columns == Columns()


# bad input


def refusal(tmp_path: Path, *sources: Path | str, **config: Any) -> str:
    with pytest.raises(DataError) as caught:
        run(tmp_path / "out", IngestConfig(tuple(map(str, sources)), **config))
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))
    return str(caught.value)


def test_a_truncated_gzip_leaves_nothing_half_written(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl.gz", text_rows(5000))
    source.write_bytes(source.read_bytes()[:-100])
    assert "a.jsonl.gz is a damaged or truncated gzip" in refusal(tmp_path, source)


def test_a_refused_file_leaves_the_older_output_as_it_was(tmp_path: Path) -> None:
    ingest(tmp_path / "out", write_rows(tmp_path / "a.jsonl", text_rows(40)))
    before = folder_bytes(tmp_path / "out")
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(DataError, match=r"a\.jsonl is empty"):
        run(tmp_path / "out", IngestConfig((str(tmp_path / "a.jsonl"),)))
    assert folder_bytes(tmp_path / "out") == before


def test_a_wrong_column_is_refused_with_the_columns_found_and_the_key(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(40))
    told = refusal(tmp_path, source, columns=Columns(chosen="winner"))
    assert "a.jsonl has no column `winner` (it has: prompt, chosen, rejected)" in told
    assert "`ingest.columns`" in told
    assert "`topic`" in refusal(tmp_path, source, columns=Columns(slice="topic"))
    assert "`question`" in refusal(tmp_path, source, columns=Columns(prompt="question"))
    assert "correct the field under `ingest.where`" in refusal(tmp_path, source, where={"lang": "en"})


def test_texts_beside_a_prompt_of_another_name_are_refused_with_the_columns_found(tmp_path: Path) -> None:
    rows = [{"text": f"Q{i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(40)]
    message = refusal(tmp_path, write_rows(tmp_path / "a.jsonl", rows))
    assert "a.jsonl has no column `prompt` (it has: text, chosen, rejected)" in message
    assert "`ingest.columns`" in message


def test_a_column_that_only_one_of_two_files_lacks_is_refused_by_that_file(tmp_path: Path) -> None:
    good = write_rows(tmp_path / "good.jsonl", text_rows(40))
    bad = write_rows(tmp_path / "bad.jsonl", [{"prompt": "P", "better": "a", "worse": "b"}])
    assert "bad.jsonl has no column `chosen`" in refusal(tmp_path, good, bad)


def test_a_filter_value_that_no_row_has_is_refused(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", [{**row, "ok": 1} for row in text_rows(40)])
    assert "leaves no row" in refusal(tmp_path, source, where={"ok": True})


def test_the_log_says_how_many_rows_were_kept_and_why_others_were_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_rows(tmp_path / "a.jsonl", text_rows(40))
    with source.open("a") as file:
        file.write('{"prompt": "P", "chosen": \n')
    with caplog.at_level("INFO", logger="tasks"):
        pairs = ingest(tmp_path / "out", source)["pairs"]
    held_out = f"{pairs['train']} pairs to train on, {pairs['test']} held out"
    assert f"41 rows: {held_out}; left out: 1 rejected" in caplog.messages
    assert "rejected: broken_row 1; rejects.jsonl names the rows" in caplog.messages


def test_too_many_unusable_rows_are_refused_with_the_top_reasons(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", [*text_rows(40), *[{"prompt": "P", "chosen": "", "rejected": "b"}] * 10])
    told = refusal(tmp_path, source)
    assert "10 of 50 rows are no usable pairs (20.0%): empty_chosen 10" in told
    assert "`ingest.max_rejected_share`" in told
    assert ingest(tmp_path / "out", source, max_rejected_share=0.2)["rejected"] == {"empty_chosen": 10}


def test_binary_rubbish_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(b"not named so"))
    assert "not UTF-8 text" in refusal(tmp_path, tmp_path / "a.jsonl")


def test_an_empty_side_of_the_split_is_refused(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", [{"prompt": "", "chosen": f"a{i}", "rejected": "b"} for i in range(40)])
    assert "the training set is empty: 0 training and 40 test pairs" in refusal(tmp_path, source)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sources", []),
        ("test_share", 0),
        ("stratify", "yes"),
        ("test_share", 1.0),
        ("limit", 1),
        ("max_rejected_share", 2),
        ("contradictions", "first"),
        ("columns", {"chosn": "x"}),
        ("demo_pairs", 3000),
    ],
)
def test_a_wrong_param_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"ingest.{key}"):
        build(IngestConfig, {"sources": ["demo"], key: value}, "ingest")


def test_a_bad_file_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "params.yaml").write_text("ingest:\n  sources: [empty.jsonl]\nruntime: {}\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tasks.ingest"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith("[ingest] error: empty.jsonl is empty")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data/pairs").exists()


def test_starting_the_stage_loads_no_torch_and_no_transformers() -> None:
    heavy = "('torch', 'transformers', 'datasets')"
    code = f"import sys, tasks.ingest, tasks.encode; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
