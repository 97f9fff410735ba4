"""Expectations stop the stage before anything is written; following an error's advice helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import ConfigError, DataError
from tasks.core.params import build
from tasks.ingest import Folders, IngestConfig, run
from tests.pairs.samples import text_rows


@pytest.fixture(autouse=True)
def _checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)


def ingest(folder: Path, count: int = 40, name: str = "a.jsonl", *, more: Any = (), **expect: Any) -> dict[str, Any]:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in [*text_rows(count), *more]))
    config = build(IngestConfig, {"sources": [str(folder / name)], "test_share": 0.3, "expect": expect}, "ingest")
    return run(Folders(folder / "data/pairs"), config, kept=folder / "kept")


def accept(folder: Path, **expect: Any) -> None:
    """As the advice says: leave the limit out for one run, and copy the metrics."""
    ingest(folder, **expect)
    (folder / "data/accepted.json").write_bytes((folder / "data/pairs/metrics.json").read_bytes())


def test_data_as_expected_pass(tmp_path: Path) -> None:
    accept(tmp_path)
    limits = {"min_train_pairs": 10, "min_test_pairs": 5, "max_chosen_longer_share": 1, "max_leaking_share": 0}
    assert ingest(tmp_path, **limits, max_length_drift=0, max_source_drift=0)["leaking_prompt_share"] == 0


def test_every_limit_that_is_missed_is_named_at_once_with_its_value(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        ingest(tmp_path, min_train_pairs=1000, min_test_pairs=5, max_chosen_longer_share=0.6)
    pairs = r"`min_train_pairs` is 1000, and there are \d+ pairs to train on"
    longer = "`max_chosen_longer_share` is 0.6, and chosen is the longer reply in 1 of the pairs"
    assert caught.match(f"miss limits of `ingest.expect`: {pairs}; {longer} — mend the data, or change the limit")


def test_nothing_is_written_where_a_limit_is_missed_and_the_rejects_are_kept(tmp_path: Path) -> None:
    empty = {"prompt": "Q", "chosen": "", "rejected": "No."}
    with pytest.raises(DataError, match=r"kept/rejects.jsonl lists the rows"):
        ingest(tmp_path, more=[empty], min_train_pairs=1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "data", "kept"]
    assert list((tmp_path / "data").iterdir()) == []
    assert json.loads((tmp_path / "kept/rejects.jsonl").read_text())["reason"] == "empty_chosen"


def test_test_prompts_with_the_wording_of_training_are_leaks(tmp_path: Path) -> None:
    frame = "Answer in one short line, with no more than ten words, the question that follows here:"
    framed = [{**row, "prompt": f"{frame} {row['prompt']}"} for row in text_rows(40)]
    with pytest.raises(DataError, match=r"`max_leaking_share` is 0, and 0\.\d+ of the test pairs share 13 words"):
        ingest(tmp_path, more=framed, max_leaking_share=0)
    assert 0.3 < ingest(tmp_path, more=framed, max_leaking_share=0.7)["leaking_prompt_share"] < 0.7
    signs = [{"prompt": sign * 3, "chosen": "Yes.", "rejected": "No."} for sign in "?!.,;:-+*/&%$#@"]
    assert ingest(tmp_path, more=signs, max_leaking_share=0)["leaking_prompt_share"] == 0


def test_longer_replies_than_in_the_version_before_are_a_drift_and_the_advice_helps(tmp_path: Path) -> None:
    accept(tmp_path)
    longer = [{"prompt": f"More {i}", "chosen": "Yes. " * 50, "rejected": "No."} for i in range(40)]
    with pytest.raises(DataError, match=r"`max_length_drift` is 0.2, and the mean of chosen .* leave its limit out"):
        ingest(tmp_path, more=longer, max_length_drift=0.2)
    ingest(tmp_path, more=longer)
    (tmp_path / "data/accepted.json").write_bytes((tmp_path / "data/pairs/metrics.json").read_bytes())
    ingest(tmp_path, more=longer, max_length_drift=0.2)


def test_a_source_that_is_new_or_gone_is_a_drift(tmp_path: Path) -> None:
    accept(tmp_path)
    with pytest.raises(DataError, match=r"`max_source_drift` is 0.5, and the share .* of a.jsonl went from 1 to 0"):
        ingest(tmp_path, name="b.jsonl", max_source_drift=0.5)


def test_without_a_version_before_drift_passes_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ingest(tmp_path, max_length_drift=0)
    assert "accepted.json is not there, so drift is not checked" in caplog.text


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"characters_mean": {"prompt": 1}, "rows_by_source": []}'])
def test_accepted_metrics_that_are_none_are_refused_and_the_advice_helps(tmp_path: Path, text: str) -> None:
    (tmp_path / "data/accepted.json").write_text(text)
    with pytest.raises(DataError, match=r"accepted.json does not hold the metrics of ingest — copy"):
        ingest(tmp_path, max_length_drift=0.5)
    accept(tmp_path)
    ingest(tmp_path, max_length_drift=0.5)


@pytest.mark.parametrize(
    ("key", "value", "advice"),
    [
        ("max_chosen_longer_share", 60, "a number from 0 to 1"),
        ("max_source_drift", 1.5, "a number from 0 to 1"),
        ("max_length_drift", -0.1, "0 or more"),
        ("min_train_pairs", 2.5, "a whole number"),
        ("max_lenght_drift", 0.1, "did you mean `max_length_drift`"),
    ],
)
def test_a_limit_without_sense_is_refused(tmp_path: Path, key: str, value: float, advice: str) -> None:
    with pytest.raises(ConfigError, match=rf"`ingest.expect.{key}`.*{advice}"):
        ingest(tmp_path, **{key: value})
