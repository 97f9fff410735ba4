"""Sources that say themselves how they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks import ingest as stage
from tasks.core.errors import ConfigError, DataError
from tasks.core.params import build
from tasks.ingest import IngestConfig
from tasks.page.readers.read_lineage import _hub_datasets
from tests.core.test_stage_arguments import run as run_stage
from tests.pairs.samples import read_lines, text_rows, write_rows
from tests.stages.ingested import stored


def config(*sources: Any, **section: Any) -> IngestConfig:
    return build(IngestConfig, {"sources": list(sources), **section}, "ingest")


def ingest(out: Path, *sources: Any, **section: Any) -> dict[str, Any]:
    metrics = stage.run(stage.Folders(out), config(*sources, **section))
    assert metrics["outcomes"] == sum(metrics["pairs"].values()) + sum(metrics["left_out"].values())
    return metrics


def rows(count: int, start: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [{**row, **more} for row in text_rows(start + count)[start:]]


def test_each_source_has_its_own_columns_and_filter_and_what_it_does_not_name_is_the_section_s(tmp_path: Path) -> None:
    plain = write_rows(tmp_path / "a.jsonl", [*rows(30, lang="en"), *rows(10, 30, lang="de"), *rows(10, 40, lang="fr")])
    named = [{"q": f"Q{i}", "good": f"yes {i}", "bad": "no", "lang": "en", "tools": "x"} for i in range(20)]
    other = write_rows(tmp_path / "b.jsonl", named)
    entry = {
        "path": str(other),
        "columns": {"prompt": "q", "chosen": "good", "rejected": "bad", "tools": None},
        "ignore": ["tools"],
        "where": {},
    }
    metrics = ingest(tmp_path / "out", str(plain), entry, where={"lang": {"not": ["en"]}})
    assert metrics["left_out"]["filtered"] == 30
    found = {pair.prompt: pair.source for pair in stored(tmp_path / "out")}
    assert found == {f"Question {i}?": f"a.jsonl:{i + 1}" for i in range(30, 50)} | {
        f"Q{i}": f"b.jsonl:{i + 1}" for i in range(20)
    }


def test_a_source_s_columns_stand_in_place_of_the_section_s_and_are_not_mixed_with_them(tmp_path: Path) -> None:
    swapped = [{"prompt": f"P{i}", "good": "a", "bad": "b"} for i in range(30)]
    first = write_rows(tmp_path / "a.jsonl", swapped)
    second = write_rows(tmp_path / "b.jsonl", text_rows(30))
    ingest(
        tmp_path / "out",
        str(first),
        {"path": str(second), "columns": {}},
        columns={"chosen": "good", "rejected": "bad"},
    )
    assert len(stored(tmp_path / "out")) == 60


def test_each_source_has_its_own_form_and_votes(tmp_path: Path) -> None:
    votes = [{"prompt": f"V{i}", "a": "one", "b": "two", "best": "x"} for i in range(30)]
    columns = {"first": "a", "second": "b", "winner": "best"}
    entry = {"path": str(write_rows(tmp_path / "v.jsonl", votes)), "columns": columns, "votes": {"second": ["x"]}}
    metrics = ingest(tmp_path / "out", str(write_rows(tmp_path / "a.jsonl", text_rows(30))), entry)
    assert {pair.chosen for pair in stored(tmp_path / "out") if "v.jsonl" in pair.source} == {"two"}
    assert metrics["forms"]["a.jsonl"].startswith("standard")
    assert metrics["forms"]["v.jsonl"].startswith("votes")


def test_messages_name_the_keys_of_the_entry_that_has_them_and_following_them_helps(tmp_path: Path) -> None:
    votes = [{"prompt": f"V{i}", "a": "one", "b": "two", "best": "x", "tools": ["t"]} for i in range(30)]
    columns = {"first": "a", "second": "b", "winner": "best"}
    entry: dict[str, Any] = {"path": str(write_rows(tmp_path / "v.jsonl", votes)), "columns": {"first": "a"}}

    def refusal() -> str:
        with pytest.raises((ConfigError, DataError)) as caught:
            ingest(tmp_path / "out", "demo", entry, max_rejected_share=0.01)
        return str(caught.value)

    assert "`ingest.sources[1].columns` names no `second`" in refusal()
    entry["columns"] = {**columns, "tools": None}
    assert "`ingest.ignore: [tools]`" in refusal(), "a key of the section, for the entry has none"
    entry["ignore"] = ["other"]
    assert "`ingest.sources[1].ignore: [tools]`" in refusal()
    entry["ignore"] = ["tools"]
    entry["votes"] = {"first": ["y"]}
    assert "name it in `ingest.sources[1].votes`" in refusal()
    entry["votes"] = {"first": ["x"]}
    assert sum(ingest(tmp_path / "out", "demo", entry)["pairs"].values()) == 1430


def test_messages_about_single_answers_name_the_keys_of_their_entry(tmp_path: Path) -> None:
    answers = [{"question": f"V{i // 2}?", "answer": f"answer {i}", "stars": i % 2} for i in range(20)]
    columns = {"prompt": "question", "text": "answer", "score": "stars"}
    entry = {"path": str(write_rows(tmp_path / "v.jsonl", answers)), "columns": columns, "min_gap": 2}
    ingest(tmp_path / "out", str(write_rows(tmp_path / "a.jsonl", text_rows(30))), entry)
    details = {row["detail"] for row in read_lines(tmp_path / "out/rejects.jsonl")}
    assert details == {"no two answers differ by `ingest.sources[1].min_gap` 2"}


def test_one_file_named_twice_is_reported_twice(tmp_path: Path) -> None:
    path = str(write_rows(tmp_path / "a.jsonl", [*rows(30, lang="en"), *rows(30, 30, lang="de")]))
    entries = [{"path": path, "where": {"lang": lang}} for lang in ("en", "de")]
    metrics = ingest(tmp_path / "out", *entries)
    assert list(metrics["forms"]) == ["a.jsonl", "a.jsonl (1)"]
    assert list(json.loads((tmp_path / "out/manifest.json").read_text())["inputs"]) == list(metrics["forms"])
    assert sum(metrics["pairs"].values()) == metrics["left_out"]["filtered"] == 60


def test_a_filter_that_leaves_nothing_of_one_source_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_rows(tmp_path / "b.jsonl", rows(40, lang="en"))
    ingest(tmp_path / "out", "demo", {"path": str(path), "where": {"lang": "eng"}})
    assert "b.jsonl: `where` leaves none of its 40 rows" in caplog.messages
    with pytest.raises(DataError, match=r"`language` .*correct the field under `ingest.sources\[1\].where`"):
        ingest(tmp_path / "out", "demo", {"path": str(path), "where": {"language": {"not": "en"}}})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"path": "a", "limt": 3}, r"unknown key `ingest.sources\[1\].limt` — did you mean `limit`"),
        ({"path": "a", "limit": 0}, r"`ingest.sources\[1\].limit` is 0 — write 1 or more, or null"),
        ({"path": "a", "weight": 0}, r"`ingest.sources\[1\].weight` is 0.0 — write a number above 0"),
        ({"path": "a", "weight": 1e-50}, r"`ingest.sources\[1\].weight` is 1e-50"),
        ({"path": "a", "weight": "heavy"}, r"`ingest.sources\[1\].weight` is 'heavy' — write a number"),
        ({"path": "a", "split": "dev"}, r"`ingest.sources\[1\].split` is 'dev' — choose one of: auto, train, test"),
        ({"path": " "}, r"`ingest.sources\[1\].path` is ' ' — name a file"),
        ({}, r"`ingest.sources\[1\].path` is missing"),
        (3, r"`ingest.sources\[1\]` is 3"),
        ({"path": "a", "form": "helpster3"}, r"`ingest.sources\[1\].form` is 'helpster3' — write one of"),
        ({"path": "a", "votes": {"tie": ["x"], "up": ["x"]}}, r"`ingest.sources\[1\].votes` gives 'x' two meanings"),
        ({"path": "a", "columns": {"chosn": "x"}}, r"`ingest.sources\[1\].columns.chosn` — did you mean `chosen`"),
        ({"path": "a", "where": {"x": {"min": 2, "max": 1}}}, r"`ingest.sources\[1\].where.x` has the min 2 above"),
        ({"path": "a", "min_gap": -1}, r"`ingest.sources\[1\].min_gap` is -1.0 — write 0 or more"),
    ],
)
def test_a_wrong_entry_is_refused_by_its_place(entry: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config("demo", entry)


def test_try_reads_a_file_as_its_entry_in_params_says(tmp_path: Path) -> None:
    write_rows(tmp_path / "b.jsonl", [{"q": f"Q{i}", "chosen": "a", "rejected": "b"} for i in range(3)])
    text = "ingest:\n  sources: [demo, {path: b.jsonl, columns: {prompt: q}}]\n"
    (tmp_path / "params.yaml").write_text(text)
    done = run_stage(tmp_path, "-m", "tasks.ingest", "--try", "b.jsonl")
    assert done.stdout.startswith("b.jsonl: 3 rows read, 3 pairs"), done.stderr


def test_the_report_names_hub_data_of_both_kinds_of_entries() -> None:
    entries = [f"hub:org/a@{'0' * 40}", {"path": f"hub:org/b@{'1' * 40}#test", "split": "test"}, {"limit": 1}]
    assert _hub_datasets({"sources": entries}) == ("org/a", "org/b")
