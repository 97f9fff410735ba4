"""Stop strings in the tokens of real tokenizers: byte-level, byte fallback, and made of parts of characters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tasks.dpo.generation.stop_texts import StopTexts
from tasks.pairs.encoding.encoder import EncodeConfig
from tasks.pairs.encoding.turn_marks import turn_marks

KINDS = ("tokenizers/qwen2.5", "models/stories260K", "tokenizers/minimind-6400")
ANSWER = "I see. Thank you, née 東京!"


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest, shared: Path) -> Any:
    return AutoTokenizer.from_pretrained(shared / request.param)


def first_cut(tokenizer: Any, text: str, stop: str) -> tuple[int, tuple[tuple[int, ...], str] | None]:
    """The number of tokens after which a stop string is met, as tokens come one by one, and what is left."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    stops = StopTexts(tokenizer, [stop])
    for count in range(1, len(ids) + 1):
        if cut := stops.cut(ids[:count]):
            return count, cut
    return len(ids), None


@pytest.mark.parametrize("stop", ["\n\nHuman:", "\n\n", "Human", "京!\n", "!", ":\n", " ", "Human: Why"])
def test_an_answer_is_cut_before_a_stop_string_however_its_tokens_lie(tokenizer: Any, stop: str) -> None:
    whole = f"{ANSWER}\n\nHuman: Why?\nAssistant:\n"
    decoded = tokenizer.decode(tokenizer(whole, add_special_tokens=False)["input_ids"])
    place = decoded.find(stop)
    count, cut = first_cut(tokenizer, whole, stop)
    assert cut is not None
    ids, text = cut
    assert text == decoded[:place]
    assert stop in tokenizer.decode(tokenizer(whole, add_special_tokens=False)["input_ids"][:count])
    assert not ids or tokenizer.decode(list(ids)).startswith(text)
    assert not ids or not tokenizer.decode(list(ids[:-1])).startswith(text), "no token more than the text needs"


def test_an_answer_without_the_stop_string_is_left(tokenizer: Any) -> None:
    assert first_cut(tokenizer, "Human beings: they are kind.", "\n\nHuman:")[1] is None
    assert first_cut(tokenizer, "\n\nHuman", "\n\nHuman:")[1] is None


def test_an_answer_that_begins_with_the_stop_string_is_empty(tokenizer: Any) -> None:
    assert first_cut(tokenizer, "Human: why?", "Human:")[1] == ((), "")


def test_the_marks_of_a_template_without_end_tokens_are_stop_strings(shared: Path, tmp_path: Path) -> None:
    qwen = AutoTokenizer.from_pretrained(shared / "tokenizers/qwen2.5")
    assert turn_marks(qwen, EncodeConfig()) == (), "a turn ends with <|im_end|>"
    assert turn_marks(qwen, EncodeConfig(chat_template="plain")) == ("\n\nAssistant:", "\n\nHuman:")

    bare = AutoTokenizer.from_pretrained(shared / "models/stories260K")
    assert turn_marks(bare, EncodeConfig()) == (), "without a template there are no marks"
    alpaca = tmp_path / "alpaca.jinja"
    alpaca.write_text(
        "{% for m in messages %}{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n"
        "{% else %}### Response:\n{{ m.content }}\n\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}### Response:\n{% endif %}"
    )
    marks = turn_marks(bare, EncodeConfig(chat_template=str(alpaca)))
    assert marks == ("\n\n### Instruction:", "\n\n### Response:")
    ended = tmp_path / "ended.jinja"
    ended.write_text(alpaca.read_text().replace("{{ m.content }}\n\n{% endif %}", "{{ m.content }}</s>{% endif %}"))
    assert turn_marks(bare, EncodeConfig(chat_template=str(ended))) == ()
