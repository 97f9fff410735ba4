"""The prompt that training sees is the one that generation sees, whatever the template does once a reply follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import ConfigError
from tasks.core.files import canonical_json
from tasks.pairs.encoding.encoder import EncodeConfig, EncodedPair, EncoderFacts, PairEncoder
from tasks.pairs.record.pair import Message, Pair
from tests.pairs.samples import byte_tokenizer, chat, pair

# as Mistral v0.3 and Nemo: the system text stands in the last user turn, and only while that is the last turn
MOVED_SYSTEM = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}"
    "{% else %}{% set turns = messages %}{% endif %}{{ bos_token }}{% for m in turns %}{% if m.role == 'user' %}"
    "{{ '[INST] ' }}{% if loop.last and system is defined %}{{ system + '\n\n' }}{% endif %}{{ m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
# as Gemma 4 and others: generation's prompt has think marks that a rendered reply lacks, unless asked otherwise
THINK_MARKS = (
    "{% for m in messages %}{{ '<|turn>' + m.role + '\n' + m.content | trim + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>assistant\n' }}"
    "{% if not enable_thinking | default(false) %}{{ '<think></think>' }}{% endif %}{% endif %}"
)
NO_OPENING = "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
TOOLS = (
    "{% if tools %}{{ 'TOOLS ' + tools | tojson }}{% endif %}{% for m in messages %}{{ '<|' + m.role + '|>' }}"
    "{{ m.content }}{% for call in m.tool_calls | default([]) %}{{ 'CALL ' + call.function.name }}{% endfor %}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SYSTEM = (Message("system", "Be brief."), *chat("Why?"))
CALL = canonical_json({"tool_calls": [{"function": {"name": "clock", "arguments": {}}}]})
CLOCK = canonical_json({"tools": [{"function": {"name": "clock"}}]})
TOKENIZER = byte_tokenizer("<s>", "</s>")


def encoder(folder: Path, jinja: str, **variables: Any) -> PairEncoder:
    (folder / "a.jinja").write_text(jinja)
    return PairEncoder(TOKENIZER, EncodeConfig(chat_template=str(folder / "a.jinja"), template_kwargs=variables))


def texts(encoded: EncodedPair) -> tuple[str, str, str]:
    """Prompt, chosen and rejected as text; the row's prompt is the one that generation goes on from."""
    assert encoded.made is not None, encoded.reason
    row = encoded.made.row
    assert row.prompt.tolist() == encoded.prompt.tolist()
    return TOKENIZER.decode(row.prompt), TOKENIZER.decode(row.chosen), TOKENIZER.decode(row.rejected)


@pytest.mark.parametrize("reply", ["Since.", "Since. ", "e", "[/INST]", " Since\nso."])
def test_a_system_text_that_moves_stays_in_the_prompt_and_the_reply_is_its_own(tmp_path: Path, reply: str) -> None:
    made = encoder(tmp_path, MOVED_SYSTEM).encode([pair(SYSTEM, reply, "No.")])[0]
    assert made.is_rerendered
    assert texts(made) == ("<s>[INST] Be brief.\n\nWhy?[/INST]", f" {reply}</s>", " No.</s>")


def test_a_row_reads_alike_with_a_system_text_and_without(tmp_path: Path) -> None:
    moved, usual = encoder(tmp_path, MOVED_SYSTEM).encode([pair(SYSTEM), pair(chat("Why?"))])
    assert (moved.is_rerendered, usual.is_rerendered) == (True, False)
    assert texts(moved)[1:] == texts(usual)[1:]


def test_think_marks_of_generation_s_prompt_stay_in_the_prompt(tmp_path: Path) -> None:
    made = encoder(tmp_path, THINK_MARKS).encode([pair(chat("Why?"), " Since.", "No.")])[0]
    assert texts(made) == ("<|turn>user\nWhy?</s><|turn>assistant\n<think></think>", "Since.</s>", "No.</s>")


def test_template_kwargs_reach_training_and_answering_alike(tmp_path: Path) -> None:
    made = encoder(tmp_path, THINK_MARKS, enable_thinking=True).encode([pair(chat("Why?"), "Since.", "No.")])[0]
    assert not made.is_rerendered
    assert texts(made) == ("<|turn>user\nWhy?</s><|turn>assistant\n", "Since.</s>", "No.</s>")


@pytest.mark.parametrize("name", ["enable_thnking", "messages"])
def test_a_variable_that_no_template_reads_or_that_the_pairs_give_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        encoder(tmp_path, THINK_MARKS, **{name: True})


def test_a_reply_that_the_template_changes_is_dropped_where_the_boundary_needs_it(tmp_path: Path) -> None:
    changing = THINK_MARKS.replace("m.content | trim", "m.content.split('</think>')[-1] | trim")
    made = encoder(tmp_path, changing).encode([pair(chat("Why?"), "<think>so</think>Since.", "No.")])[0]
    assert made.reason == "reply_not_rendered"


@pytest.mark.parametrize("lost", ["system", "user"])
def test_a_template_that_leaves_out_a_turn_of_the_prompt_drops_the_pair(tmp_path: Path, lost: str) -> None:
    leaving = NO_OPENING.replace("m in messages", f"m in messages if m.role != '{lost}'")
    made = encoder(tmp_path, leaving).encode([pair(SYSTEM)])[0]
    assert (made.reason, lost in made.detail) == ("prompt_not_rendered", True)


def test_a_template_that_leaves_out_thoughts_of_a_reply_drops_the_pair(tmp_path: Path) -> None:
    silent = NO_OPENING.replace("m.content", "m.content.split('</think>')[-1]")
    spaced = NO_OPENING.replace("m.content", "m.content | replace('</think>', '\n</think>\n\n')")
    thought = pair(chat("Why?"), "<think>so</think>Since.", "No.")
    assert encoder(tmp_path, silent).encode([thought])[0].reason == "reply_not_rendered"
    assert texts(encoder(tmp_path, spaced).encode([thought])[0])[1] == "<think>so\n</think>\n\nSince.</s>"


def test_a_template_that_opens_no_turn_gets_its_own_header_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coder = encoder(tmp_path, NO_OPENING)
    made = coder.encode([pair(chat("Why?"), "Since.", "No.")])[0]
    assert texts(made) == ("<|user|>\nWhy?</s>\n<|assistant|>\n", "Since.</s>", "No.</s>")
    EncoderFacts.from_json(coder.facts.to_json()).warn()
    assert "does not open the assistant's turn" in caplog.text


def test_an_empty_system_turn_is_not_sent_to_the_template(tmp_path: Path) -> None:
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    coder = encoder(tmp_path, strict + NO_OPENING)
    made = coder.encode([pair((Message("system", " "), *chat("Why?"))), pair(SYSTEM)])
    assert [each.reason for each in made] == ["", "template_refused"]


def test_tools_and_calls_reach_the_template_and_a_call_alone_is_a_reply(tmp_path: Path) -> None:
    asked = Pair(chat("When?"), "", "No.", chosen_extra=CALL, inputs=CLOCK)
    prompt, chosen, rejected = texts(encoder(tmp_path, TOOLS).encode([asked])[0])
    assert prompt == 'TOOLS [{"function": {"name": "clock"}}]<|user|>When?</s><|assistant|>'
    assert (chosen, rejected) == ("CALL clock</s>", "No.</s>")


@pytest.mark.parametrize(
    "asked",
    [
        Pair(chat("When?"), "Now.", "No.", inputs=CLOCK),
        Pair(chat("When?"), "", "No.", chosen_extra=CALL),
        Pair("When?", "Now.", "No.", inputs=CLOCK),
    ],
    ids=["tools", "calls", "plain text"],
)
def test_tools_that_the_template_does_not_read_drop_the_pair_by_reason(tmp_path: Path, asked: Pair) -> None:
    assert encoder(tmp_path, NO_OPENING).encode([asked])[0].reason == "tools_not_rendered"
