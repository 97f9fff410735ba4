"""Evaluation sets whose prompts are kept out of the pairs."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import ConfigError, DataError
from tasks.core.params import build
from tasks.pairs.ingestion.keep_out import KeptOut
from tasks.pairs.ingestion.reading import SourceEntry
from tasks.pairs.ingestion.split import normal_text
from tests.pairs.samples import read_lines, text_rows, write_rows
from tests.pairs.schemas.catalogue import SCHEMAS
from tests.pairs.schemas.schema import Schema
from tests.stages.test_source_entries import ingest

RUN = "one two three four five six seven eight nine ten eleven twelve thirteen"


def entry(path: Path, **keys: Any) -> SourceEntry:
    return build(SourceEntry, {"path": str(path), **keys}, "ingest.keep_out[0]")


def kept(path: Path, *texts: str, **keys: Any) -> list[bool]:
    """Which of the texts a set keeps out."""
    sets = KeptOut([entry(path, **keys)])
    return [sets.match(normal_text(text)) is not None for text in texts]


def test_prompts_are_kept_out_by_their_words_and_by_runs_of_words(tmp_path: Path) -> None:
    extra = ["Who wrote Faust?", f"Repeat: {RUN}!", RUN.replace("seven", "zero"), "WHO   wrote faust", "Name a river."]
    rows = [*text_rows(40), *({"prompt": prompt, "chosen": "x", "rejected": "y"} for prompt in extra)]
    source = write_rows(tmp_path / "a.jsonl", rows)
    (tmp_path / "bench.txt").write_text(f"who wrote Faust\nzero {RUN}\n\n")
    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "Name a river"}]
    write_rows(tmp_path / "bench.jsonl", [{"messages": [*turns, {"role": "assistant", "content": "Rhine"}]}])

    sets = [str(tmp_path / name) for name in ("bench.txt", "bench.jsonl")]
    metrics = ingest(tmp_path / "out", str(source), keep_out=sets, max_rejected_share=0.0)
    assert (metrics["left_out"]["kept_out"], metrics["rejected"]) == (4, {})
    listed = {row["source"]: (row["reason"], row["detail"]) for row in read_lines(tmp_path / "out/rejects.jsonl")}
    assert listed["a.jsonl:42"] == ("kept_out", "the prompt shares 13 words in a row with a prompt of bench.txt")
    assert listed["a.jsonl:45"] == ("kept_out", "the prompt stands in bench.jsonl")
    assert "keep_out: bench.txt" in json.loads((tmp_path / "out/manifest.json").read_text())["inputs"]


def test_a_folder_of_several_splits_is_refused_with_entries_that_help(tmp_path: Path) -> None:
    for split in ("dev", "test"):
        write_rows(tmp_path / f"{split}.jsonl", [{"prompt": f"What is {split}?"}])
    with pytest.raises(DataError, match=r"holds the splits dev, test — name .* `ingest.keep_out`, such as") as told:
        KeptOut([entry(tmp_path)])
    assert "split: test" not in told.value.todo, "which has no effect on prompts"
    assert kept(Path(told.value.todo.rpartition(" or ")[2]), "what is TEST", "what is dev") == [True, False]


@pytest.mark.parametrize("schema", [schema for schema in SCHEMAS.values() if not schema.refused], ids=lambda s: s.name)
def test_a_set_of_any_schema_keeps_its_prompts_out(schema: Schema, tmp_path: Path) -> None:
    keys = {key: value for key, value in schema.params.items() if key in ("columns", "form", "where", "ignore")}
    prompts = ["\n".join(text for role, text in pair.prompt if role != "system") for pair in schema.expected()]
    assert all(kept(schema.write(tmp_path), *prompts, **keys))


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Name a river.", "answer": "Rhine"},
        {"instruction": "Name", "input": "a river"},
        {"turns": ["Name a river.", "Another one."]},
        {"conversations": [{"from": "human", "value": "Name a river."}, {"from": "gpt", "value": "Rhine"}]},
        {"prompt": [{"role": "user", "content": "Name a river."}], "label": "Rhine"},
        {"text": "Name a river."},
        {"prompt": "name  a RIVER", "chosen": "Rhine", "rejected": "Rhine"},
    ],
)
def test_the_prompt_of_an_evaluation_row_is_found_in_any_usual_column(row: dict[str, Any], tmp_path: Path) -> None:
    path = write_rows(tmp_path / "bench.jsonl", [row])
    assert kept(path, "Name a river!", "Rhine", "Name a city.") == [True, False, False]


def test_an_entry_names_the_columns_and_rows_of_a_set(tmp_path: Path) -> None:
    rows = [{"task": "A", "text": "B", "part": "test"}, {"task": "C", "text": "D", "part": "train"}]
    path = write_rows(tmp_path / "bench.jsonl", rows)
    assert kept(path, "A", "B", "C", columns={"prompt": "task"}, where={"part": "test"}) == [True, False, False]


def test_runs_of_a_script_without_spaces_are_counted_in_characters(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "bench.jsonl", [{"prompt": "请告诉我中国最长的河流是哪一条？"}])
    texts = ("问题：请告诉我中国最长的河流是哪一条，谢谢", "请告诉我中国最高的山是哪一座？")
    assert kept(path, *texts) == [True, False]


def test_a_set_can_be_pickled_for_worker_processes(tmp_path: Path) -> None:
    sets = KeptOut([entry(write_rows(tmp_path / "bench.jsonl", [{"prompt": "Name a river."}]))])
    assert pickle.loads(pickle.dumps(sets)).match("name a river") == "the prompt stands in bench.jsonl"


def test_folders_and_globs_are_read_as_those_of_sources(tmp_path: Path) -> None:
    write_rows(tmp_path / "evals/bench.jsonl", [{"prompt": "Name a river."}])
    for name in ("README.md", "bench.jsonl.dvc"):
        (tmp_path / "evals" / name).write_text("no rows")
    for path in (tmp_path / "evals", tmp_path / "evals/*"):
        assert kept(path, "name a river") == [True]


def test_a_set_without_prompts_is_refused_and_the_advice_helps(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "bench.jsonl", [{"task": "Who wrote Faust?", "answer": "Goethe"}])
    with pytest.raises(DataError) as refusal:
        kept(path)
    assert "`ingest.keep_out[0]`: bench.jsonl: 1 of 1 rows hold no prompt" in str(refusal.value)
    assert "(it has: task, answer) — name its column in the entry: {path: …, columns: {prompt: …}}" in str(
        refusal.value
    )
    assert kept(path, "who wrote faust", columns={"prompt": "task"}) == [True]


def test_a_few_rows_without_a_prompt_are_named_and_the_others_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_rows(tmp_path / "bench.jsonl", [*({"prompt": f"Question {i}"} for i in range(19)), {"prompt": " "}])
    assert kept(path, "question 18") == [True]
    assert "bench.jsonl: 1 of 20 rows hold no prompt; the first is bench.jsonl:20" in caplog.text


def test_text_files_that_are_absent_or_not_utf_8_are_refused(tmp_path: Path) -> None:
    for name in ("none.txt", "none*.txt", "none*.jsonl"):
        with pytest.raises(DataError, match=r"ingest\.keep_out") as refusal:
            KeptOut([str(tmp_path / name)])
        assert "ingest.sources" not in str(refusal.value)
    (tmp_path / "bench.txt").write_bytes(b"Who wrote Faust?\nA caf\xe9\n")
    with pytest.raises(DataError, match=r"bench\.txt is not UTF-8 text: it holds the byte 0xe9"):
        KeptOut([str(tmp_path / "bench.txt")])


def test_a_key_that_says_nothing_of_prompts_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "bench.jsonl", [{"prompt": "Who wrote Faust?"}])
    with pytest.raises(ConfigError, match=r"`ingest\.keep_out\[0\]\.pairing` has no effect on prompts"):
        kept(path, pairing="random")


def test_a_field_of_the_filter_that_no_row_has_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "bench.jsonl", [{"prompt": "Who wrote Faust?"}])
    with pytest.raises(DataError, match=r"no column `part` — correct the field under `ingest\.keep_out\[0\]\.where`"):
        kept(path, where={"part": "test"})


def test_sets_that_keep_all_pairs_out_are_named_and_the_advice_helps(tmp_path: Path) -> None:
    source = str(write_rows(tmp_path / "a.jsonl", text_rows(40)))
    with pytest.raises(DataError, match="40 pairs have prompts of evaluation sets, which leaves 0 training and 0 test"):
        ingest(tmp_path / "out", source, keep_out=[source])
    ingest(tmp_path / "out", source)
