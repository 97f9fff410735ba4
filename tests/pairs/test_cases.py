"""Small inputs that went wrong once: each is read to its right value, or refused with the row's own detail."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tasks import ingest
from tasks.core.errors import DataError
from tasks.core.params import build
from tasks.ingest import IngestConfig
from tasks.pairs.record.pair import Pair
from tasks.pairs.record.parquet import stored_pairs
from tests.pairs.samples import chat, write_rows

ROWS = 24
TEXTS = [
    (f"How many pears does Ada have on day {i}?", f"She has {i} pears and eats one.", f"No. {i}") for i in range(ROWS)
]


def read(folder: Path, *sources: Path, **section: Any) -> dict[str, list[Pair]]:
    """Run the stage and return the pairs of each side."""
    given = {"sources": list(map(str, sources)), "test_share": 0.3, **section}
    ingest.run(ingest.Folders(folder / "out"), build(IngestConfig, given, "ingest"))
    return {
        side: [pair for batch in stored_pairs(folder / "out" / f"{side}.parquet") for pair in batch]
        for side in ("train", "test")
    }


def texts(pairs: dict[str, list[Pair]]) -> list[tuple[Any, str, str]]:
    return sorted((_question(pair), pair.chosen, pair.rejected) for side in pairs.values() for pair in side)


def _question(pair: Pair) -> str:
    return pair.prompt if isinstance(pair.prompt, str) else pair.prompt[-1].content


def conversation(ask: str, reply: str) -> list[dict[str, str]]:
    return [{"content": ask, "role": "user"}, {"content": reply, "role": "assistant"}]


@pytest.mark.parametrize("notation", [str, json.dumps])
def test_conversations_that_were_exported_as_text_are_read(tmp_path: Path, notation: Any) -> None:
    path = tmp_path / "export.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["prompt", "chosen", "rejected"])
        writer.writerows(
            [ask, notation(conversation(ask, good)), notation(conversation(ask, bad))] for ask, good, bad in TEXTS
        )
    assert texts(read(tmp_path, path)) == sorted(TEXTS)


@pytest.mark.parametrize("prompt", ["input", "instruction"])
def test_a_question_in_several_columns_is_read_whole_or_the_columns_are_named(tmp_path: Path, prompt: str) -> None:
    rows = []
    for i in range(ROWS):
        first, second = f"Chats, {i}.", f"Gatos, {i}."
        asked = {"instruction": "Translate.", "input": f"There are {i} cats."}
        rows.append({"system": "Answer in French.", **asked, "chosen": first, "rejected": second})
        rows.append({"system": "Answer in Spanish.", **asked, "chosen": second, "rejected": first})
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match="nothing reads"):
        read(tmp_path, path, columns={"prompt": prompt, "system": None}, ignore=[])
    assert len(texts(read(tmp_path, path))) == 2 * ROWS


@pytest.mark.parametrize("column", ["images", "documents", "history"])
def test_a_column_that_shapes_the_prompt_is_never_left_out_in_silence(tmp_path: Path, column: str) -> None:
    path = write_rows(
        tmp_path / "rows.jsonl",
        [{"prompt": ask, "chosen": good, "rejected": bad, column: ["x"]} for ask, good, bad in TEXTS],
    )
    with pytest.raises(DataError, match=column):
        read(tmp_path, path)
    assert texts(read(tmp_path, path, ignore=[column])) == sorted(TEXTS)


def test_replies_that_begin_with_their_prompt_lose_it(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "rows.jsonl",
        [{"prompt": ask, "chosen": f"{ask} {good}", "rejected": f"{ask} {bad}"} for ask, good, bad in TEXTS],
    )
    pairs = texts(read(tmp_path, path))
    assert [(ask, good.strip(), bad.strip()) for ask, good, bad in pairs] == sorted(TEXTS)


def test_one_question_as_text_and_as_a_message_is_one_prompt(tmp_path: Path) -> None:
    plain = [{"prompt": ask, "chosen": good, "rejected": bad} for ask, good, bad in TEXTS]
    lists = [{**row, "prompt": conversation(row["prompt"], "")[:1]} for row in plain]
    pairs = read(tmp_path, write_rows(tmp_path / "a.jsonl", plain), write_rows(tmp_path / "b.jsonl", lists))
    assert len(texts(pairs)) == ROWS
    assert Pair("Q", "a", "b").prompt_id == Pair(chat("Q"), "a", "b").prompt_id


@pytest.mark.parametrize(
    ("row", "detail"),
    [
        ('{"prompt": "Q", "chosen": "a", "rejected": "b", "slice": ["a", "b"]}', "rows.jsonl:1: `slice` is a list"),
        ("version https://git-lfs.github.com/spec/v1", "LFS"),
        ('{"prompt": [{"role": "nurse", "content": "Q"}], "chosen": "a", "rejected": "b"}', "a turn by 'nurse'"),
        ("{'prompt': 'Q'}", "Expecting property name"),
    ],
)
def test_a_refusal_quotes_the_first_row(tmp_path: Path, row: str, detail: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{row}\n" * 3, encoding="utf-8")
    with pytest.raises(DataError) as refusal:
        read(tmp_path, path)
    assert detail in str(refusal.value)


def test_the_list_of_rejected_rows_outlives_the_refusal(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": "Q", "chosen": 1, "rejected": 2}] * 3)
    with pytest.raises(DataError):
        ingest.run(ingest.Folders(tmp_path / "out"), IngestConfig((str(path),)), tmp_path / "kept")
    assert len((tmp_path / "kept" / "rejects.jsonl").read_text().splitlines()) == 3


def _spelled(form: str, messages: list[dict[str, Any]]) -> Any:
    """Return messages as some export writes them."""
    keyed = [{"id": place, "type": "message", **message} for place, message in enumerate(messages)]
    return {
        "keys before the role": json.dumps(keyed),
        "tuple": str(tuple(messages)),
        "object around the list": {"messages": messages},
        "object around the list, as text": json.dumps({"messages": messages}),
        "JSON text of JSON text": json.dumps(json.dumps(messages)),
    }[form]


@pytest.mark.parametrize(
    "form",
    [
        "keys before the role",
        "tuple",
        "object around the list",
        "object around the list, as text",
        "JSON text of JSON text",
    ],
)
def test_conversations_are_read_in_every_notation(tmp_path: Path, form: str) -> None:
    rows = [
        {
            "prompt": _spelled(form, conversation(ask, "")[:1]),
            "chosen": _spelled(form, conversation(ask, good)),
            "rejected": _spelled(form, conversation(ask, bad)),
        }
        for ask, good, bad in TEXTS
    ]
    assert texts(read(tmp_path, write_rows(tmp_path / "rows.jsonl", rows))) == sorted(TEXTS)


def test_lists_of_texts_that_were_written_as_text_are_refused(tmp_path: Path) -> None:
    rows = [{"prompt": str([ask]), "chosen": str([good]), "rejected": str([bad])} for ask, good, bad in TEXTS]
    with pytest.raises(DataError, match="are lists of texts, written as text"):
        read(tmp_path, write_rows(tmp_path / "rows.jsonl", rows))
    rows = [{**row, "prompt": ask} for row, (ask, _, _) in zip(rows, TEXTS, strict=True)]
    assert len(texts(read(tmp_path, write_rows(tmp_path / "b.jsonl", rows)))) == ROWS  # a question asks for lists


@pytest.mark.parametrize("notation", [json.dumps, repr])
def test_texts_that_all_stand_in_quotes_are_read_without_and_the_log_says_so(
    tmp_path: Path, notation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made = [{"prompt": f"{ask}\n", "chosen": f'"{good}"', "rejected": bad} for ask, good, bad in TEXTS]
    path = write_rows(tmp_path / "rows.jsonl", [{key: notation(text) for key, text in row.items()} for row in made])
    with caplog.at_level("INFO"):
        pairs = texts(read(tmp_path, path))
    assert pairs == sorted((row["prompt"], row["chosen"], row["rejected"]) for row in made)
    assert "rows.jsonl: read as quoted: the texts of prompt, chosen and rejected are in quotes" in caplog.text
    pairs = texts(read(tmp_path / "as_they_stand", path, form="standard"))
    assert pairs[0][0][0] == notation("x")[0]


def test_where_few_rows_have_quotes_around_all_texts_they_stay_and_where_most_have_them_others_are_refused(
    tmp_path: Path,
) -> None:
    few = [
        (f'"{ask}"', f'"{good}"', f'"{bad}"') if i < 5 else (ask, good, bad) for i, (ask, good, bad) in enumerate(TEXTS)
    ]
    rows = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in few]
    assert texts(read(tmp_path, write_rows(tmp_path / "rows.jsonl", rows))) == sorted(few)
    rows = [{key: json.dumps(text) if i > 4 else text for key, text in row.items()} for i, row in enumerate(rows[5:])]
    with pytest.raises(DataError, match="`prompt` has no quotes around its text, and most rows have"):
        read(tmp_path, write_rows(tmp_path / "most.jsonl", rows))


def test_the_place_in_a_list_of_texts_is_named_as_the_message_says(tmp_path: Path) -> None:
    rows = [{"prompt": ask, "chosen": good, "rejected": [bad, "Never."]} for ask, good, bad in TEXTS]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=r"`rejected` is a list of texts; .* as rejected.0"):
        read(tmp_path, path)
    assert texts(read(tmp_path, path, columns={"rejected": "rejected.0"})) == sorted(TEXTS)


@pytest.mark.parametrize(("user", "bot"), [("User:", "Assistant:"), ("### Human:", "### Assistant:"), ("Q:", "A:")])
def test_transcripts_with_other_marks_beside_their_prompt_are_refused(tmp_path: Path, user: str, bot: str) -> None:
    rows = [
        {"prompt": ask, "chosen": f"{user} {ask}\n{bot} {good}", "rejected": f"{user} {ask}\n{bot} {bad}"}
        for ask, good, bad in TEXTS
    ]
    with pytest.raises(DataError, match=f"begin with a turn of the user, {user}"):
        read(tmp_path, write_rows(tmp_path / "rows.jsonl", rows))


def test_a_transcript_without_its_first_blank_line_is_read(tmp_path: Path) -> None:
    rows = [
        {"chosen": f"Human: {ask}\n\nAssistant: {good}", "rejected": f"Human: {ask}\n\nAssistant: {bad}"}
        for ask, good, bad in TEXTS
    ]
    assert texts(read(tmp_path, write_rows(tmp_path / "rows.jsonl", rows))) == sorted(TEXTS)


def test_a_slice_that_is_a_list_is_named_by_its_item_as_the_message_says(tmp_path: Path) -> None:
    rows = [{"prompt": ask, "chosen": good, "rejected": bad, "slice": ["a", "b"]} for ask, good, bad in TEXTS]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=r"`ingest.columns` can name an item, as slice.0"):
        read(tmp_path, path)
    pairs = read(tmp_path, path, columns={"slice": "slice.0"})
    assert {pair.slice for side in pairs.values() for pair in side} == {"a"}
