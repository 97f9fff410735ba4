"""What shapes a prompt reaches the pair: system, history, tools, parts, tool turns, and messages that stand as text."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from tasks.pairs.ingestion.formats import RawRow
from tasks.pairs.ingestion.intake import read_pairs
from tasks.pairs.ingestion.rows import parse_row
from tasks.pairs.record.pair import Columns, Message, Pair
from tasks.pairs.record.rejection import REASONS, Rejection
from tests.pairs.samples import chat

USER = {"role": "user", "content": "How is the kettle?"}
BOT = {"role": "assistant", "content": "It boils."}
OTHER = {"role": "assistant", "content": "No idea."}
TEXTS = {"prompt": "How is the kettle?", "chosen": "It boils.", "rejected": "No idea."}
REPLIES = {"chosen": "It boils.", "rejected": "No idea."}
LISTS = {"prompt": [USER], "chosen": [BOT], "rejected": [OTHER]}
SYSTEM = Message("system", "Be kind.")
TOOL = {"type": "function", "function": {"name": "boil", "parameters": {}}}
CALL = {"type": "function", "function": {"name": "boil", "arguments": {"degrees": 90}}}


def pair_of(row: dict[str, Any], columns: Columns | None = None) -> Pair:
    parsed = parse_row(RawRow("x:1", row), columns or Columns())
    assert isinstance(parsed, Pair), parsed
    return parsed


def refusal_of(row: dict[str, Any]) -> Rejection:
    parsed = parse_row(RawRow("x:1", row), Columns())
    assert isinstance(parsed, Rejection), parsed
    assert parsed.reason in REASONS
    return parsed


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
@pytest.mark.parametrize(
    "row",
    [TEXTS, LISTS, {"question": TEXTS["prompt"], **REPLIES}, {"chosen": [USER, BOT], "rejected": [USER, OTHER]}],
    ids=["texts", "lists", "question", "no prompt"],
)
def test_a_system_column_is_the_first_turn_of_every_form(name: str, row: dict[str, Any]) -> None:
    assert pair_of({**row, name: "Be kind."}).prompt == (SYSTEM, *chat("How is the kettle?"))
    assert pair_of({**row, name: " "}) == pair_of(row)


def test_a_system_turn_that_repeats_the_column_stays_once_and_another_one_is_refused() -> None:
    turns = [{"role": "developer", "content": "Be kind."}, USER]
    row = {**LISTS, "prompt": turns}
    assert pair_of({**row, "system": "Be kind."}).prompt == (SYSTEM, *chat("How is the kettle?"))
    assert refusal_of({**row, "system": "Be rude."}).reason == "two_system_prompts"
    assert refusal_of({**TEXTS, "system": "Be rude.", "system_prompt": "Be kind."}).reason == "two_system_prompts"


def test_one_question_under_two_system_prompts_is_two_prompts_and_a_waived_one_is_not_read() -> None:
    rows = [{**TEXTS, "system": "Be kind."}, {"prompt": TEXTS["prompt"], "chosen": "No idea.", "rejected": "It boils."}]
    assert len({pair.prompt_id for pair in read_pairs(rows)}) == 2
    assert {pair.prompt for pair in read_pairs(rows, ignored=["system"])} == {"How is the kettle?"}


@pytest.mark.parametrize("prompt", ["prompt", "instruction", "input"])
def test_instruction_and_input_are_one_prompt_whichever_is_named(prompt: str) -> None:
    row = {"instruction": "Answer.", "input": "How is the kettle?", **REPLIES}
    assert pair_of(row, Columns(prompt=prompt)).prompt == "Answer.\nHow is the kettle?"
    assert pair_of({**row, "input": ""}, Columns(prompt=prompt)).prompt == "Answer."


def test_a_second_prompt_is_refused_unless_the_first_contains_it() -> None:
    assert refusal_of({**TEXTS, "instruction": "Answer."}).reason == "two_prompts"
    assert pair_of({**TEXTS, "instruction": TEXTS["prompt"]}) == pair_of(TEXTS)
    assert len(list(read_pairs([{**TEXTS, "instruction": "Answer."}], ignored=["instruction"]))) == 1


@pytest.mark.parametrize("history", [[["Hello", "Hi"]], '[["Hello", "Hi"]]', [{"role": "user", "content": "Hello"}]])
def test_history_stands_before_the_question(history: Any) -> None:
    turns = [*history, {"role": "assistant", "content": "Hi"}] if isinstance(history[0], dict) else history
    assert pair_of({**TEXTS, "history": turns}).prompt == chat("Hello", "Hi", "How is the kettle?")
    assert pair_of({**TEXTS, "history": []}) == pair_of(TEXTS)


def test_tools_and_documents_are_inputs_of_the_template() -> None:
    for tools in ([TOOL], json.dumps([TOOL]), [json.dumps(TOOL)]):
        assert json.loads(pair_of({**TEXTS, "tools": tools, "documents": []}).inputs) == {"tools": [TOOL]}
    assert pair_of({**TEXTS, "tools": [TOOL]}).prompt == chat("How is the kettle?")
    for column in ("tools", "documents", "history"):
        assert refusal_of({**TEXTS, column: "a kettle"}).reason == "bad_context"


@pytest.mark.parametrize(("user", "bot"), [("User", "Assistant"), ("human", "gpt"), ("prompter", "BOT")])
def test_roles_are_read_in_every_spelling(user: str, bot: str) -> None:
    row = {"prompt": [{**USER, "role": user}], "chosen": [{**BOT, "role": bot}], "rejected": [{**OTHER, "role": bot}]}
    assert pair_of(row) == pair_of(LISTS)


def test_parts_of_text_are_joined_and_others_are_refused_by_name() -> None:
    text = [{"type": "text", "text": "How is "}, {"type": "text", "text": "the kettle?", "image_url": None}]
    assert pair_of({**LISTS, "prompt": [{**USER, "content": text}]}) == pair_of(LISTS)
    image = {"type": "image_url", "image_url": {"url": "kettle.png"}}
    refused = refusal_of({**LISTS, "prompt": [{**USER, "content": [*text, image]}]})
    assert (refused.reason, "image_url" in refused.detail) == ("not_text_part", True)
    refused = refusal_of({**LISTS, "prompt": [{**USER, "images": ["kettle.png"]}]})
    assert (refused.reason, "images" in refused.detail) == ("unread_message_key", True)


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "boil", "arguments": '{"degrees": 90}'}}],
        },
        {"role": "assistant", "content": None, "function_call": {"name": "boil", "arguments": '{"degrees": 90}'}},
        {"from": "function_call", "value": '{"name": "boil", "arguments": {"degrees": 90}}'},
    ],
)
def test_a_tool_call_is_an_assistant_s_turn_in_the_prompt_and_as_the_reply(turn: dict[str, Any]) -> None:
    results = [{"role": "observation", "content": "90"}, {"role": "tool", "content": "ok", "tool_call_id": "7"}]
    asked = pair_of({**LISTS, "prompt": [USER, turn, *results]})
    assert isinstance(asked.prompt, tuple)
    assert [message.role for message in asked.prompt] == ["user", "assistant", "tool", "tool"]
    assert json.loads(asked.prompt[1].extra) == {"tool_calls": [CALL]}
    assert json.loads(asked.prompt[3].extra) == {"tool_call_id": "7"}
    replied = pair_of({**LISTS, "chosen": [turn]})
    assert (replied.chosen, json.loads(replied.chosen_extra)) == ("", {"tool_calls": [CALL]})


@pytest.mark.parametrize("call", [{**CALL, "result": "90"}, {**CALL, "function": {**CALL["function"], "result": 90}}])
def test_a_tool_call_with_something_that_nothing_reads_is_refused_by_name(call: dict[str, Any]) -> None:
    refused = refusal_of({**LISTS, "chosen": [{"role": "assistant", "content": None, "tool_calls": [call]}]})
    assert (refused.reason, "`result`" in refused.detail or "'result'" in refused.detail) == ("bad_tool_calls", True)
    assert pair_of({**LISTS, "chosen": [{"role": "assistant", "tool_calls": [{**CALL, "result": None}]}]})


def test_reasoning_is_kept_beside_the_reply() -> None:
    replied = pair_of({**LISTS, "chosen": [{**BOT, "reasoning_content": "It hums."}]})
    assert json.loads(replied.chosen_extra) == {"reasoning_content": "It hums."}


@pytest.mark.parametrize(
    "spell",
    [
        str,
        json.dumps,
        lambda value: str(np.array(value, dtype=object)),
        lambda value: repr(np.array(value, dtype=object)),
    ],
    ids=["Python", "JSON", "numpy", "numpy array"],
)
def test_a_list_of_messages_that_stands_as_text_is_read(spell: Any) -> None:
    row = {"prompt": TEXTS["prompt"], "chosen": spell([USER, BOT]), "rejected": spell([USER, OTHER])}
    assert pair_of(row) == pair_of(LISTS)


def test_a_list_that_cannot_be_read_is_refused_and_other_json_is_text() -> None:
    cut = "[{'role': 'user', 'content': 'How is the"
    assert refusal_of({**TEXTS, "chosen": cut}).reason == "serialised_conversation"
    for text in (
        '{"kettle": "boils"}',
        '[{"role": "admin", "content": "x"}]',
        '[{"role": "user", "content": "x"}] What is this?',
    ):
        assert pair_of({**TEXTS, "prompt": text}).prompt == text


def test_a_prompt_that_both_replies_repeat_is_removed_from_both() -> None:
    whole = {**TEXTS, "chosen": "How is the kettle? It boils.", "rejected": "How is the kettle?\nNo idea."}
    parsed = pair_of(whole)
    assert (parsed.chosen, parsed.rejected, parsed.is_prompt_removed) == (" It boils.", "\nNo idea.", True)
    assert pair_of({**whole, "system": "Be kind."}).chosen == "It boils."
    for row in ({**whole, "rejected": "No idea."}, {"prompt": "I", "chosen": "I see", "rejected": "I hear"}):
        assert (pair_of(row).chosen, pair_of(row).is_prompt_removed) == (row["chosen"], False)


@pytest.mark.parametrize(
    "text",
    [
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello",
        "<|start_header_id|>user<|end_header_id|>\n\nHi",
        "[INST] Hi [/INST] Hello",
        "<start_of_turn>user\nHi",
    ],
)
def test_a_reply_with_the_marks_of_a_template_is_refused(text: str) -> None:
    assert refusal_of({**TEXTS, "chosen": text}).reason == "rendered_conversation"
    assert refusal_of({"chosen": text, "rejected": text + "!"}).reason == "rendered_conversation"
    assert pair_of({**TEXTS, "chosen": "Use a<b, x[0] and <s>."}).chosen == "Use a<b, x[0] and <s>."


def test_a_path_reaches_into_lists() -> None:
    row = {"prompt": "Hi", "completions": [{"text": "a"}, {"text": "b"}]}
    columns = Columns(chosen="completions.1.text", rejected="completions.0.text")
    assert (pair_of(row, columns).chosen, pair_of(row, columns).rejected) == ("b", "a")
    refused = parse_row(RawRow("x:1", row), Columns(chosen="completions.-1.text", rejected="completions.2.text"))
    assert isinstance(refused, Rejection)
    assert refused.reason == "missing_column"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), datetime.now(UTC), b"x"])
def test_a_value_that_json_does_not_have_turns_the_row_away(value: Any) -> None:
    tool = {**TOOL, "function": {"name": "boil", "parameters": {"degrees": value}}}
    call = {"function": {"name": "boil", "arguments": {"degrees": value}}}
    for row in (
        {**TEXTS, "tools": [tool]},
        {**TEXTS, "documents": [{"text": value}]},
        {**LISTS, "chosen": [{"role": "assistant", "content": None, "tool_calls": [call]}]},
    ):
        refused = refusal_of(row)
        assert (refused.reason, "a value that JSON does not have" in refused.detail) == ("not_text", True)
