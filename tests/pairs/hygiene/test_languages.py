"""The languages of prompts are counted in a fixed sample."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import ConfigError
from tasks.ingest import Folders, IngestConfig, run
from tasks.pairs.hygiene import languages
from tests.pairs.samples import text_rows

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("py3langid") is None, reason="the extra `hygiene` is not installed"
)

QUESTIONS = {
    "de": "Wie entkalke ich einen Wasserkocher, der {i} Jahre alt ist?",
    "en": "How do I remove the limescale from a kettle that is {i} years old?",
    "fr": "Comment détartrer une bouilloire qui a {i} ans ?",
    "zh": "如何给用了{i}年的水壶除垢？",
    "und": "{i} + {i} = ?",
}


def ingest(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = IngestConfig(sources=(str(folder / "a.jsonl"),), test_share=0.3, languages=True)
    return run(Folders(folder / "out"), config)


def rows(per_language: int) -> list[dict[str, Any]]:
    asked = [text.format(i=i) for text in QUESTIONS.values() for i in range(per_language)]
    return [{"prompt": question, "chosen": "Yes.", "rejected": "No."} for question in asked]


def test_each_prompt_is_counted_once_under_its_language(tmp_path: Path) -> None:
    again = [{**row, "rejected": "Never."} for row in rows(8)]
    assert ingest(tmp_path, [*rows(8), *again])["languages"] == dict.fromkeys(QUESTIONS, 8)


def test_of_a_conversation_the_users_last_turn_counts(tmp_path: Path) -> None:
    turns = [
        [
            {"role": "system", "content": "You are a friendly assistant who answers in full sentences."},
            {"role": "user", "content": QUESTIONS["de"].format(i=i)},
        ]
        for i in range(12)
    ]
    counted = ingest(tmp_path, [{"prompt": turn, "chosen": "Ja.", "rejected": "Nein."} for turn in turns])
    assert counted["languages"] == {"de": 12}


def test_the_sample_is_fixed_and_about_as_large_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "SAMPLE", 50)
    counted = [ingest(tmp_path, text_rows(200))["languages"] for _ in range(2)]
    assert counted[0] == counted[1]
    assert 30 < sum(counted[0].values()) < 70


def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(ConfigError, match=r"`ingest.languages` needs py3langid .*pip install .*\[hygiene\]"):
        ingest(tmp_path, text_rows(20))
