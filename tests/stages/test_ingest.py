"""The ingest stage: every row accounted for, stored as it was read, and the same each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tasks.core.params import build, load_params
from tasks.ingest import IngestConfig
from tasks.pairs.record.pair import Columns, Pair
from tests.conftest import ROOT
from tests.pairs.samples import chat, folder_bytes, read_lines, text_rows, write_rows
from tests.stages.ingested import ingest, sides_of, stored


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
