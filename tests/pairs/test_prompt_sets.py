"""Prompt sets of one's own: read like pairs, rendered like the held-out prompts, refused where not understood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tasks.core.errors import DataError
from tasks.pairs.encoding.encoder import EncodeConfig, PairEncoder
from tasks.pairs.prompts.prompt_sets import read_prompt_sets
from tasks.pairs.record.pair import Message, Pair

ASKED = {"prompt": "How do I mend a lamp?"}
USER = [{"role": "user", "content": "a"}]


@pytest.fixture(scope="module")
def encoder(shared: Path) -> PairEncoder:
    return PairEncoder(AutoTokenizer.from_pretrained(shared / "tokenizers/qwen2.5"), EncodeConfig(text_as="chat"))


def write(path: Path, *rows: Any) -> dict[str, str]:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return {"mine": str(path)}


def test_texts_and_messages_become_rows_like_those_of_held_out_prompts(encoder: PairEncoder, tmp_path: Path):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sky blue?"}]
    sets = write(tmp_path / "p.jsonl", {**ASKED, "gold": "Carefully."}, {"messages": turns, "slice": "sky"})
    first, second = read_prompt_sets(sets, encoder, ())
    text = Pair("How do I mend a lamp?", "a", "b")
    assert first == {
        "prompt_id": text.prompt_id,
        "set": "mine",
        "slice": "mine",
        "display": "How do I mend a lamp?",
        "question": "How do I mend a lamp?",
        "gold_chosen": "Carefully.",
        "prompt": '"How do I mend a lamp?"',
        "ids": encoder.encode([text])[0].prompt.tolist(),
    }
    whole = Pair((Message("system", "Be brief."), Message("user", "Why is the sky blue?")), "a", "b")
    assert second["ids"] == encoder.encode([whole])[0].prompt.tolist()
    assert (second["prompt_id"], second["slice"]) == (whole.prompt_id, "mine/sky")
    assert (second["question"], "gold_chosen" in second) == ("Why is the sky blue?", False)


def test_a_prompt_that_is_held_out_or_stands_twice_is_answered_once(encoder: PairEncoder, tmp_path: Path):
    as_messages = {"messages": [{"role": "user", "content": ASKED["prompt"]}]}
    sets = write(tmp_path / "p.jsonl", ASKED, as_messages, {"question": "And a chair?"}, {"prompt": "And a bed?"})
    sets["other"] = write(tmp_path / "q.jsonl", {"prompt": "And a chair?"}, {"prompt": "And a door?"})["mine"]
    held_out = [Pair("And a bed?", "a", "b").prompt_id]
    rows = read_prompt_sets(sets, encoder, held_out)
    assert [(row["question"], row["set"]) for row in rows] == [
        ("How do I mend a lamp?", "mine"),
        ("And a chair?", "mine"),
        ("And a door?", "other"),
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "p.jsonl:2: "),
        ('"text"', "p.jsonl:2: the row is text"),
        ({"text": "What?"}, "p.jsonl:2: nothing reads its key `text`"),
        ({**ASKED, "chosen": "a", "rejected": "b"}, "p.jsonl:2: nothing reads its key `chosen`"),
        ({**ASKED, "image": "x.png"}, "nothing reads its key `image`"),
        ({**ASKED, "gold": 3}, "not a text"),
        ({"prompt": " "}, "p.jsonl:2: "),
        ({"prompt": 3}, "`prompt` is "),
        ({**ASKED, "question": "Another?"}, "both hold a prompt"),
        ({"messages": USER, "conversations": [{"from": "user", "value": "b"}]}, "both hold a prompt"),
        ({"messages": [{"role": "king", "content": "a"}]}, "a turn by 'king'"),
        ({"messages": [*USER, {"role": "assistant", "content": "b"}]}, "the last turn is the"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "image_url"),
        ({**ASKED, "tools": [{"type": "function"}], "documents": [{"title": "a"}]}, "does not read"),
    ],
)  # fmt: skip
def test_a_row_that_is_not_understood_is_refused_by_its_line(encoder, tmp_path: Path, row: Any, said: str):
    sets = write(tmp_path / "p.jsonl", ASKED, row)
    if "does not read" in said:
        sets = write(tmp_path / "p.jsonl", ASKED, {**row, "tools": []})  # this template reads tools, not documents
    with pytest.raises(DataError) as caught:
        read_prompt_sets(sets, encoder, ())
    assert said in str(caught.value)
    assert str(caught.value).endswith("— correct the row, or take it out of the file")
    read_prompt_sets(write(tmp_path / "p.jsonl", ASKED), encoder, ())


def test_a_missing_file_and_a_set_without_new_prompts_are_refused(encoder: PairEncoder, tmp_path: Path):
    with pytest.raises(
        DataError, match=r"absent.jsonl, a file of `respond.prompt_sets`, is missing — correct the path"
    ):
        read_prompt_sets({"mine": str(tmp_path / "absent.jsonl")}, encoder, ())
    sets = write(tmp_path / "p.jsonl", ASKED)
    with pytest.raises(DataError, match="none of the 1 prompts of the set mine is new — add prompts"):
        read_prompt_sets(sets, encoder, [Pair(ASKED["prompt"], "a", "b").prompt_id])
