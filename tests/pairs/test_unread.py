"""Columns that could shape a prompt or a label are read, refused or waived; others are no reason to refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.core.errors import DataError
from tasks.core.params import build
from tasks.ingest import Folders, IngestConfig, run
from tasks.pairs.ingestion.intake import read_pairs
from tasks.pairs.raw.column_names import shapes_label, shapes_prompt
from tasks.pairs.raw.unread import UnreadColumns
from tasks.pairs.record.pair import Columns
from tasks.pairs.record.parquet import stored_pairs
from tests.pairs.samples import write_rows

PLAIN = {"prompt": "How is the kettle?", "chosen": "It boils.", "rejected": "No idea."}


def rows(**more: Any) -> list[dict[str, Any]]:
    return [{**PLAIN, "prompt": f"How is kettle {i}?", **more} for i in range(6)]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("images", ["kettle.png"]),
        ("image_url", "kettle.png"),
        ("functions", [{"name": "boil"}]),
        ("toolDefinitions", [{"name": "boil"}]),
        ("retrieved_documents", ["A kettle boils water."]),
        ("reasoning_content", "Let me see."),
        ("persona", "a pirate"),
        ("post", "My kettle is cold."),
        ("Code", "boil()"),
        ("content", "A kettle is on the stove."),
        ("title", "Kettles"),
        ("text", "Old kettles boil slowly."),
        ("task", "Answer in one line."),
        ("description", "It is made of steel."),
        ("prompt_template", "Q: {question} A:"),
        ("sourceText", "Old kettles boil slowly."),
        ("role_prompt", "You are a pirate."),
        ("few_shot", ["Q: How is the pan? A: Hot."]),
        ("constraints", ["one line"]),
        ("safety", "Name no brands."),
        ("subject", "The kettle of my aunt"),
        ("response_prefix", "Well,"),
    ],
)
def test_a_column_that_may_shape_the_prompt_is_refused_and_its_advice_helps(column: str, value: Any) -> None:
    with pytest.raises(DataError, match=rf"`{column}`.*first in rows:1.*ingest.ignore: \[{column}\]"):
        list(read_pairs(rows(**{column: value})))
    assert len(list(read_pairs(rows(**{column: value}), ignored=[column]))) == 6
    assert len(list(read_pairs(rows(**{column: type(value)()})))) == 6  # an empty one shapes nothing


def test_all_columns_are_named_at_once() -> None:
    with pytest.raises(DataError, match=r"ingest.ignore: \[images, persona\]"):
        list(read_pairs(rows(images=["a.png"], persona="a pirate")))


@pytest.mark.parametrize("winner", [1, "B", True])
def test_two_answers_read_by_map_beside_a_winner_that_nobody_reads_are_refused(winner: Any) -> None:
    made = [{"prompt": f"Q{i}?", "output_1": "A.", "output_2": "B.", "label": winner} for i in range(6)]
    columns = Columns(chosen="output_1", rejected="output_2")
    with pytest.raises(DataError, match=r"`label`.*which answer is better"):
        list(read_pairs(made, columns=columns))
    assert len(list(read_pairs(made, columns=columns, ignored=["label"]))) == 6


def test_ids_sources_and_scores_beside_a_chosen_and_a_rejected_are_no_reason_to_refuse() -> None:
    more = {"id": "7", "source": "x", "score_chosen": 9.0, "score_rejected": 2.0, "rating": [5, 1], "label": "good"}
    about = {"input_tokens": 12, "image_id": "3", "system_fingerprint": "f", "context_length": 9}
    about |= {"post_url": "https://example.org", "error_code": 7, "chat_url": "x"}
    assert len(list(read_pairs(rows(**more, **about)))) == 6


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("task", "math"), ("task_type", "open question"), ("subject", "physics"), ("topic", "cold kettles")),
        *(("url", "https://a.org/b c"), ("article_url", "https://a.org"), ("dataset_description", "of kettles")),
        *(("language", "British English"), ("annotator", "Ada L."), ("created_at", "2024 01 01"), ("model", "a b")),
        *(("generation_prompt", ["Make up a question."]), ("prompt_tokens", 7), ("text_embedding", [0.1, 0.2])),
        *(("preference_score", 0.3), ("total_annotations", 1), ("num_votes", 3), ("votes", 12), ("chosen_index", 1)),
        *(
            ("winner_model", "large-2"),
            ("label", ["a", "b"]),
            ("order", ["chosen", "rejected"]),
            ("metadata", {"a": 1}),
        ),
    ],
)
def test_a_category_an_address_or_a_number_is_no_reason_to_refuse(column: str, value: Any) -> None:
    assert len(list(read_pairs(rows(**{column: value})))) == 6


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("swapped", True), ("is_swapped", 0), ("flipped", "false"), ("preferred", "rejected"), ("winner", "b")),
        *(("verdict", "The second is better."), ("better_response_id", 1), ("human_preference", "rejected")),
        *(("chosen_by", "a coin"), ("annotation", "prefers the second"), ("label", 0), ("label", "Rejected")),
    ],
)
def test_a_verdict_beside_columns_called_chosen_and_rejected_is_refused(column: str, value: Any) -> None:
    with pytest.raises(DataError, match=rf"`{column}`.*which answer is better.*ingest.ignore: \[{column}\]"):
        list(read_pairs(rows(**{column: value})))
    assert len(list(read_pairs(rows(**{column: value}), ignored=[column]))) == 6


@pytest.mark.parametrize("flags", [(False, True), (0, 1), ("false", "True")])
def test_the_line_that_a_refusal_names_reads_a_flag_of_swapped_answers(flags: tuple[Any, Any], tmp_path: Path) -> None:
    made = [{**row, "swapped": flags[i % 2]} for i, row in enumerate(rows())]
    source = write_rows(tmp_path / "a.jsonl", made)
    with pytest.raises(DataError, match="swapped") as refusal:
        run(Folders(tmp_path / "pairs"), IngestConfig(sources=(str(source),)))
    line = str(refusal.value).split("such as `")[1].split("`")[0]
    section = YAML(typ="safe").load(f"{{sources: [{source}], test_share: 0.5, {line}}}")
    run(Folders(tmp_path / "pairs"), build(IngestConfig, section, "ingest"))
    pairs = [
        pair
        for side in ("train", "test")
        for batch in stored_pairs(tmp_path / "pairs" / f"{side}.parquet")
        for pair in batch
    ]
    expected = {row["prompt"]: row["rejected" if i % 2 else "chosen"] for i, row in enumerate(made)}
    assert {pair.prompt: pair.chosen for pair in pairs} == expected


def test_without_replies_the_missing_column_is_named_and_not_the_unread_one() -> None:
    with pytest.raises(DataError, match="has no column `chosen`"):
        list(read_pairs([{"prompt": "Q?", "text": "A kettle.", "label": 1}]))


def test_names_are_read_word_by_word() -> None:
    assert all(
        map(shapes_prompt, ["system", "System", "image1", "custom_system_message", "chatHistory", "tools", "IMAGE"])
    )
    assert not any(map(shapes_prompt, ["subsystem", "putin", "num_images", "prompt_source", "context_sha256"]))
    assert all(map(shapes_label, ["better_response", "gold", "annotator2", "humanJudgement", "Winner"]))
    assert not shapes_label("chosen_model")


def test_a_refusal_quotes_the_first_row_and_the_list_of_rejected_rows_outlives_it(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", [{**PLAIN, "slice": ["a", "b"]}] * 4)
    with pytest.raises(DataError, match=r"not_text 4; the first is .*a.jsonl:1: `slice` is a list.*rejects.jsonl"):
        run(Folders(tmp_path / "pairs"), IngestConfig(sources=(str(source),)), kept=tmp_path / "kept")
    assert not (tmp_path / "pairs").exists()
    assert len((tmp_path / "kept/rejects.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("column", ["question", "query"])
def test_of_two_questions_the_ignored_one_is_left_out_as_the_message_says(column: str) -> None:
    made = rows(**{column: "What else is there?"})
    with pytest.raises(DataError, match=rf"ingest.ignore.*\[{column}\]"):
        list(read_pairs(made))
    assert [pair.prompt for pair in read_pairs(made, ignored=[column])] == [row["prompt"] for row in made]


@pytest.mark.parametrize(
    ("column", "value", "line", "prompt"),
    [
        ("persona", "a pirate", {"system": "persona"}, ["a pirate", "How is kettle 0?"]),
        ("developer_prompt", "Be brief.", {"system": "developer_prompt"}, ["Be brief.", "How is kettle 0?"]),
        ("chat_history", [["Hi", "Hello"]], {"history": "chat_history"}, ["Hi", "Hello", "How is kettle 0?"]),
        ("meta", {"system": "Be brief."}, {"system": "meta.system"}, ["Be brief.", "How is kettle 0?"]),
        (
            "context",
            "It is old.",
            {"instruction": "context", "input": "prompt", "prompt": "prompt"},
            "It is old.\nHow is kettle 0?",
        ),
    ],
)
def test_the_line_that_a_refusal_names_reads_the_column(
    column: str, value: Any, line: dict[str, str], prompt: Any
) -> None:
    made = rows(**{column: value})
    with pytest.raises(DataError) as refusal:
        list(read_pairs(made))
    assert f"{{{', '.join(f'{key}: {name}' for key, name in line.items())}}}" in str(refusal.value)
    read = next(iter(read_pairs(made, columns=Columns(**line)))).prompt
    assert (read if isinstance(read, str) else [turn.content for turn in read]) == prompt


def test_a_key_of_an_object_beside_those_that_are_read_counts_as_a_column() -> None:
    made = [{"data": {**row, "images": ["a.png"], "lang": "en"}} for row in rows()]
    columns = Columns(prompt="data.prompt", chosen="data.chosen", rejected="data.rejected")
    with pytest.raises(DataError, match=r"ingest.ignore: \[data.images\]"):
        list(read_pairs(made, columns=columns))
    assert len(list(read_pairs(made, columns=columns, ignored=["data.images"]))) == 6

    watch = UnreadColumns(columns.reads(), ["data.images"], opened=["data"])
    watch.see(made[0], "rows:1")
    assert (list(watch.shaping), list(watch.ignored)) == ([], ["data.images"])


@pytest.mark.parametrize("column", ["better_idx", "chosen_index", "winner_model", "preferred_side", "swapped"])
def test_a_place_or_a_model_that_won_says_which_answer_is_better(column: str) -> None:
    made = [{"prompt": f"Q{i}?", "x": f"A {i}.", "y": f"B {i}.", column: i % 2} for i in range(6)]
    with pytest.raises(DataError, match=rf"{{first: x, second: y, winner: {column}}}"):
        list(read_pairs(made, columns=Columns(chosen="x", rejected="y")))


def test_a_message_names_a_hundred_columns_at_most() -> None:
    wide = [{f"c{row}_{i}": 1 for i in range(30)} for row in range(4200)]
    with pytest.raises(DataError, match="has no column `chosen`") as told:
        list(read_pairs(wide))
    assert told.value.what.count(", ") == 99
