"""Rows of every published form become pairs; each unusable row has its one reason."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from tasks.pairs.ingestion.formats import RawRow
from tasks.pairs.ingestion.rows import parse_row
from tasks.pairs.record.pair import Columns, Message, Pair
from tasks.pairs.record.rejection import REASONS, Rejection
from tests.pairs.samples import chat

USER = {"role": "user", "content": "Hi"}
BOT = {"role": "assistant", "content": "Hello"}
OTHER = {"role": "assistant", "content": "Go away"}
CALL = {"function": {"name": "f", "arguments": {"\ud83d": 1}}}
PARSED = Pair(chat("Hi"), "Hello", "Go away", None, "x:1")


def parse(value: Any, columns: Columns | None = None) -> Pair | Rejection:
    return parse_row(RawRow("x:1", value), columns or Columns())


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [USER], "chosen": [BOT], "rejected": [OTHER]},
        {"prompt": [USER], "chosen": BOT, "rejected": OTHER},
        {"prompt": [USER], "chosen": "Hello", "rejected": "Go away"},
        {"prompt": [USER], "chosen": [USER, BOT], "rejected": [USER, OTHER]},
        {"prompt": "Hi", "chosen": [USER, BOT], "rejected": [USER, OTHER]},
        {"prompt": "Hi", "chosen": [BOT], "rejected": [OTHER]},
        {"chosen": [USER, BOT], "rejected": [USER, OTHER]},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi \n\nAssistant: Go away"},
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello"},
            "rejected": {"from": "gpt", "value": "Go away"},
        },
    ],
    ids=[
        "message lists",
        "message objects",
        "text replies",
        "replies that repeat the prompt",
        "text prompt and whole conversations",
        "text prompt and messages",
        "no prompt",
        "transcripts",
        "ShareGPT",
    ],
)
def test_every_form_of_one_conversation_gives_the_same_pair(row: dict[str, Any]) -> None:
    assert parse(row) == PARSED


@pytest.mark.parametrize(
    "mark",
    [
        *(
            "<image>",
            "<video>",
            "<audio>",
            "<|image|>",
            "<image_1>",
            "<|image_pad|>",
            "<|vision_start|>",
            "<|audio_bos|>",
        ),
        *("<start_of_image>", "<image_soft_token>", "<image-placeholder>", "<|image_1|>", "[IMG]", "<|video|>"),
    ],
)
@pytest.mark.parametrize("form", ["{}\nWhat is this?", "What is in {}?", "What is this? {}"])
def test_a_mark_in_the_place_of_a_picture_is_refused_by_name(mark: str, form: str) -> None:
    asked = form.format(mark)
    for row in (
        {"prompt": asked, "chosen": "A kettle.", "rejected": "A cat."},
        {"prompt": [{"role": "user", "content": asked}], "chosen": "A kettle.", "rejected": "A cat."},
        {"system": asked, "prompt": "What?", "chosen": "A kettle.", "rejected": "A cat."},
    ):
        refused = parse(row)
        assert isinstance(refused, Rejection)
        assert (refused.reason, mark in refused.detail) == ("not_text_part", True)
        parsed = parse({**row, "prompt": "What?", "system": None})
        assert isinstance(parsed, Pair)


@pytest.mark.parametrize(
    "text",
    [
        "How do I use the <video> tag?",
        "Why is `<audio>` silent?",
        '<video><source src="a.mp4"></video> does not play.',
        "Is <img src='a.png'> closed?",
        "What is an <image-map> element?",
        "Compare images[0] and <b>[img]</b>.",
    ],
)
def test_words_about_html_are_no_pictures(text: str) -> None:
    assert isinstance(parse({"prompt": text, "chosen": "So.", "rejected": "No."}), Pair)


def test_plain_text_stays_as_it_is_with_its_spaces() -> None:
    row = {"prompt": "Is it? ", "chosen": " Yes\n", "rejected": " No", "slice": "short"}
    assert parse(row) == Pair("Is it? ", " Yes\n", " No", "short", "x:1")


def test_an_empty_text_prompt_is_a_prompt() -> None:
    assert parse({"prompt": "", "chosen": "A b", "rejected": "B a"}) == Pair("", "A b", "B a", None, "x:1")


def test_a_system_message_and_earlier_turns_stay_in_the_prompt() -> None:
    system = {"role": "system", "content": "Be kind."}
    parsed = parse({"chosen": [system, USER, BOT, USER, BOT], "rejected": [system, USER, BOT, USER, OTHER]})
    assert isinstance(parsed, Pair)
    assert parsed.prompt == (Message("system", "Be kind."), *chat("Hi", "Hello", "Hi"))


def test_the_word_human_inside_a_reply_is_text() -> None:
    reply = "He said:\nHuman: no.\n Assistant: yes."
    parsed = parse(
        {"chosen": f"\n\nHuman: Hi\n\nAssistant: {reply}", "rejected": "\n\nHuman: Hi\n\nAssistant: Human: x"}
    )
    assert isinstance(parsed, Pair)
    assert (parsed.chosen, parsed.rejected) == (reply, "Human: x")


def test_columns_can_be_renamed_reached_into_and_swapped() -> None:
    row = {"q": "Hi", "answers": {"good": "Hello", "bad": "Go away"}, "meta": {"topic": 7}}
    columns = Columns(prompt="q", chosen="answers.bad", rejected="answers.good", slice="meta.topic")
    assert parse(row, columns) == Pair("Hi", "Go away", "Hello", "7", "x:1")


@pytest.mark.parametrize(
    ("row", "reason", "told"),
    [
        ([1, 2], "not_an_object", "a list"),
        ("text", "not_an_object", "text"),
        (None, "not_an_object", "null"),
        ({"prompt": "Hi", "chosen": "a"}, "missing_column", "`rejected`"),
        ({"prompt": "Hi", "chosen": True, "rejected": "b"}, "not_text", "`chosen` is the JSON value true"),
        ({"prompt": "Hi", "chosen": "a", "rejected": None}, "not_text", "`rejected` is the JSON value null"),
        ({"prompt": 7, "chosen": "a", "rejected": "b"}, "not_text", "`prompt` is the JSON value 7"),
        ({"prompt": "Hi", "chosen": "\ud83d", "rejected": "b"}, "not_text", "surrogate"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b", "tools": [{"name": "\ud83d"}]}, "not_text", "surrogate"),
        ({"prompt": [{**USER, "name": "\ud83d"}], "chosen": "a", "rejected": "b"}, "not_text", "surrogate"),
        ({"prompt": "Hi", "chosen": {**BOT, "tool_calls": [CALL]}, "rejected": "b"}, "not_text", "surrogate"),
        ({"prompt": [USER], "chosen": [{**BOT, "content": True}], "rejected": [OTHER]}, "not_text", "true"),
        ({"prompt": [USER], "chosen": [{**BOT, "tool_calls": [{}]}], "rejected": [OTHER]}, "bad_tool_calls", "name"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b", "slice": ["a", "b"]}, "not_text", "`slice` is a list"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b", "slice": float("inf")}, "not_text", "`slice`"),
        ({"chosen": "a", "rejected": "b"}, "not_a_transcript", "`prompt`"),
        (
            {"prompt": [{"role": "moderator", "content": "x"}], "chosen": [BOT], "rejected": [OTHER]},
            "unknown_role",
            "mod",
        ),
        (
            {"prompt": [{"role": "tool", "content": "x"}], "chosen": [BOT], "rejected": [OTHER]},
            "tool_turn_without_call",
            "turn 1",
        ),
        ({"prompt": [USER, USER], "chosen": [BOT], "rejected": [OTHER]}, "two_turns_of_one_role", "by user"),
        ({"prompt": [USER], "chosen": [USER], "rejected": [OTHER]}, "two_turns_of_one_role", "by user"),
        ({"prompt": [USER, BOT], "chosen": [USER], "rejected": [USER]}, "last_turn_not_assistant", "ends with user"),
        ({"prompt": [], "chosen": [], "rejected": []}, "last_turn_not_assistant", "no turn"),
        ({"prompt": [], "chosen": [BOT], "rejected": [OTHER]}, "empty_prompt", "0 turns"),
        ({"prompt": [{**USER, "content": " "}], "chosen": [BOT], "rejected": [OTHER]}, "empty_prompt", "none with"),
        ({"prompt": "Hi", "chosen": " \n", "rejected": "b"}, "empty_chosen", "chosen"),
        ({"prompt": "Hi", "chosen": "a", "rejected": ""}, "empty_rejected", "rejected"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "a"}, "identical_replies", "same"),
        ({"chosen": [USER, BOT], "rejected": [{**USER, "content": "Hi!"}, OTHER]}, "prompts_differ", "not alike"),
        ({"prompt": "Else", "chosen": [USER, BOT], "rejected": [USER, OTHER]}, "prompts_differ", "no turn"),
        (
            {"chosen": "\n\nHuman: Hi\n\nAssistant: a\n\nHuman: b", "rejected": "\n\nHuman: Hi\n\nAssistant: b"},
            "last_turn_not_assistant",
            "ends with user",
        ),
    ],
)
def test_each_unusable_row_has_one_reason_and_says_what_is_wrong(row: Any, reason: str, told: str) -> None:
    rejection = parse(row)
    assert isinstance(rejection, Rejection)
    assert rejection.reason == reason
    assert reason in REASONS
    assert told in rejection.detail


HI = {"prompt": "Hi", "chosen": "a", "rejected": "b"}


def test_weight_and_margin_are_1_and_0_where_a_row_says_nothing() -> None:
    for absent in ({}, {"weight": None, "margin": None}, {"weight": "", "margin": ""}):
        parsed = parse({**HI, **absent})
        assert isinstance(parsed, Pair)
        assert (parsed.weight, parsed.margin) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (2, 2.0),
        (0.25, 0.25),
        ("0.25", 0.25),
        (" +1e-3 ", 0.001),
        (".5", 0.5),
        (Decimal("1.5"), 1.5),
        (np.int64(3), 3.0),
    ],
    ids=repr,
)
def test_a_number_is_read_in_every_spelling_that_files_have(value: Any, number: float) -> None:
    parsed = parse({**HI, "weight": value, "margin": value})
    assert isinstance(parsed, Pair)
    assert (parsed.weight, parsed.margin) == (number, number)
    assert isinstance(parsed.weight, float)


def test_a_margin_may_be_below_zero_and_a_weight_may_not() -> None:
    parsed = parse({**HI, "margin": -1.5})
    assert isinstance(parsed, Pair)
    assert parsed.margin == -1.5
    for weight in (0, -1, "0", 1e-60):  # the last would be 0 in float32
        rejection = parse({**HI, "weight": weight})
        assert isinstance(rejection, Rejection)
        assert (rejection.source, rejection.reason) == ("x:1", "bad_weight")
        assert "a row that should not count is left out" in rejection.detail


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (True, "the JSON value true"),
        ("high", "is text, and no number"),
        ("1_0", "is text"),
        ("nan", "is text"),
        ([1], "a list"),
        (float("nan"), "`weight` is nan, and no finite number"),
        (float("-inf"), "-inf, and no finite number"),
        (10**400, "no finite number of 32 bits"),
        ("1e39", "no finite number of 32 bits"),
        (Decimal("NaN"), "no finite number"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_finite_number_is_a_row_s_reason(value: Any, told: str) -> None:
    rejection = parse({**HI, "weight": value})
    assert isinstance(rejection, Rejection)
    assert rejection.reason == "bad_weight"
    assert told in rejection.detail
    other = parse({**HI, "margin": value})
    assert isinstance(other, Rejection)
    assert other.reason == "bad_margin"
    assert {"bad_weight", "bad_margin"} <= set(REASONS)


def test_number_columns_can_be_renamed_reached_into_and_left_unread() -> None:
    row = {**HI, "weight": "heavy", "meta": {"gap": 3}}
    parsed = parse(row, Columns(weight=None, margin="meta.gap"))
    assert isinstance(parsed, Pair)
    assert (parsed.weight, parsed.margin) == (1.0, 3.0)
    lacking = parse(HI, Columns(margin="meta.gap"))
    assert isinstance(lacking, Rejection)
    assert (lacking.reason, lacking.column) == ("missing_column", "meta.gap")


def test_a_broken_line_is_rejected_with_what_the_reader_said() -> None:
    assert parse_row(RawRow("x:9", None, "Extra data at column 3"), Columns()) == Rejection(
        "x:9", "broken_row", "Extra data at column 3"
    )


def test_ids_depend_on_the_text_alone_and_the_order_of_replies() -> None:
    first = Pair("Hi", "a", "b", "s", "here:1")
    assert first.pair_id == Pair("Hi", "a", "b", None, "there:2", weight=2.0, margin=1.0).pair_id
    assert first.pair_id != Pair("Hi", "b", "a").pair_id
    assert first.swapped_id == Pair("Hi", "b", "a").pair_id
    assert first.prompt_id == Pair("Hi", "c", "d").prompt_id != Pair(chat("Hello"), "a", "b").prompt_id


def test_one_question_as_text_and_as_a_message_is_one_pair_with_two_rows_of_tokens() -> None:
    text, message = Pair("Hi", "a", "b"), Pair(chat("Hi"), "a", "b")
    assert (text.prompt_id, text.pair_id) == (message.prompt_id, message.pair_id)
    assert text.text_id != message.text_id
    assert Pair((Message("system", "Hi"),), "a", "b").prompt_id != text.prompt_id


def test_tools_and_tool_calls_are_part_of_the_identity() -> None:
    first = Pair("Hi", "a", "b")
    assert first.prompt_id != Pair("Hi", "a", "b", inputs='{"tools":[]}').prompt_id
    called = Pair("Hi", "", "b", chosen_extra='{"tool_calls":[{"name":"look_up"}]}')
    assert called.pair_id != Pair("Hi", "", "b").pair_id
    assert called.swapped_id == Pair("Hi", "b", "", rejected_extra=called.chosen_extra).pair_id


def test_the_pair_id_is_the_hash_of_the_canonical_json_of_the_three() -> None:
    from tasks.core.files import digest_of

    example = Pair(chat('Grüß\n\u2028 "dich"', "Hi", "Hm"), "ä\\", "b")
    turns = (("user", 'Grüß\n\u2028 "dich"'), ("assistant", "Hi"), ("user", "Hm"))
    plain = {"prompt": [{"role": r, "content": c} for r, c in turns], "chosen": "ä\\", "rejected": "b"}
    assert example.pair_id == digest_of(plain)[:16]
    assert example.prompt_id == digest_of(plain["prompt"])[:16]


def test_a_slice_that_is_not_a_number_is_none():
    # what pandas writes where a value is missing
    row = {"prompt": "Hi", "chosen": "a", "rejected": "b", "slice": float("nan")}
    parsed = parse(row)
    assert isinstance(parsed, Pair)
    assert parsed.slice is None


@pytest.mark.parametrize("nothing", [float("nan"), "NaN", " nan"])
@pytest.mark.parametrize("name", ["weight", "margin"])
def test_what_the_refusal_of_nan_says_to_write_is_read(nothing: Any, name: str) -> None:
    row = {"prompt": "Hi", "chosen": "a", "rejected": "b", name: nothing}
    refused = parse(row)
    assert isinstance(refused, Rejection)
    assert (
        f"write nothing or null there, or leave the column unread, by `ingest.columns: {{{name}: null}}`"
        in refused.detail
    )
    plain = parse({**row, name: None})
    assert isinstance(plain, Pair)
    assert plain == parse({**row, name: ""}) == parse(row, Columns(**{name: None}))
