"""Exactly one BOS and one end of turn a branch, over many templates and tokenizers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import ConfigError
from tasks.pairs.encoding.encoder import EncodeConfig, PairEncoder, encode_pairs
from tasks.pairs.encoding.template import load_template
from tasks.pairs.record.pair import Message, Pair
from tests.pairs.samples import byte_tokenizer, chat, pair


@dataclasses.dataclass(frozen=True)
class House:
    """A template with the tokenizer that it is written for."""

    name: str
    jinja: str
    bos: str | None
    eos: str
    others: tuple[str, ...] = ()
    adds_bos: bool = False
    end: str = ""  # what the completion must end with

    def tokenizer(self) -> Any:
        return byte_tokenizer(self.bos, self.eos, *self.others, adds_bos=self.adds_bos)


HOUSES = [
    House(
        "ChatML",
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        None,
        "<|im_end|>",
        ("<|im_start|>",),
    ),
    House(
        "Llama 2",
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% elif m.role == 'system' %}{{ '<<SYS>>' + m.content + '<</SYS>>' }}"
        "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}",
        "<s>",
        "</s>",
        adds_bos=True,
    ),
    House(
        "Llama 3",
        "{{ bos_token }}{% for m in messages %}{{ '<|start|>' + m.role + '<|end|>\n\n' + m.content + '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}",
        "<|begin_of_text|>",
        "<|eot_id|>",
        ("<|start|>", "<|end|>"),
        adds_bos=True,
    ),
    House(
        "Gemma",
        "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) }}"
        "{{ '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        "<bos>",
        "<eos>",
        ("<start_of_turn>", "<end_of_turn>"),
        adds_bos=True,
        end="<end_of_turn>\n<eos>",
    ),
    House(
        "Zephyr",
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        None,
        "</s>",
    ),
    House("plain", "", "<s>", "</s>", adds_bos=True),
]

CONVERSATIONS = [
    chat("Hi"),
    chat("Hi", "Hello.", "How are you?"),
    (Message("system", "Be kind."), *chat("Hi", "Hello.", "And?")),
]


def encode(house: House, pairs: list[Pair], folder: Path) -> list[tuple[list[int], list[int], list[int]]]:
    template = folder / "template.jinja"
    template.write_text(house.jinja)
    config = EncodeConfig(chat_template=str(template) if house.jinja else "plain")
    tokens = encode_pairs(pairs, house.tokenizer(), config)
    rows = [tokens.row(i) for i in range(len(tokens))]
    return [(row.prompt.tolist(), row.chosen.tolist(), row.rejected.tolist()) for row in rows]


@pytest.mark.parametrize("house", HOUSES, ids=lambda house: house.name)
def test_each_branch_has_one_bos_at_its_beginning_and_one_eos_at_its_end(house: House, tmp_path: Path) -> None:
    tokenizer = house.tokenizer()
    rows = encode(house, [pair(each) for each in CONVERSATIONS], tmp_path)
    assert len(rows) == len(CONVERSATIONS)
    for prompt, *replies in rows:
        for reply, text in zip(replies, ("Gladly.", "Certainly not."), strict=True):
            if house.bos:
                assert [*prompt, *reply].count(tokenizer.bos_token_id) == 1
                assert prompt[0] == tokenizer.bos_token_id
            assert reply.count(tokenizer.eos_token_id) == 1
            assert reply[-1] == tokenizer.eos_token_id
            assert tokenizer.decode(reply).strip() in (text + (house.end or house.eos), f"{text} {house.eos}")


@pytest.mark.parametrize("house", HOUSES, ids=lambda house: house.name)
def test_earlier_turns_keep_their_ends_in_the_prompt(house: House, tmp_path: Path) -> None:
    tokenizer = house.tokenizer()
    (short, *_), (long, *_), _ = encode(house, [pair(each) for each in CONVERSATIONS], tmp_path)
    assert "Hello." in tokenizer.decode(long)
    assert long.count(tokenizer.eos_token_id) >= short.count(tokenizer.eos_token_id)


def test_plain_text_gets_the_bos_that_the_tokenizer_adds_once(stories: Any) -> None:
    row = encode_pairs([pair("Once upon", " a time", " more"), pair("<s>Once upon", " a time", " more")], stories)
    for i in range(2):
        assert row.row(i).prompt.tolist().count(stories.bos_token_id) == 1
        assert row.row(i).prompt[0] == stories.bos_token_id


def test_a_template_that_doubles_the_bos_gets_one(tmp_path: Path) -> None:
    house = dataclasses.replace(HOUSES[1], jinja="{{ bos_token }}" + HOUSES[1].jinja)
    for prompt, *_ in encode(house, [pair(chat("Hi"))], tmp_path):
        assert prompt.count(house.tokenizer().bos_token_id) == 1


def test_a_template_without_the_bos_of_plain_text_is_told_once(
    stories: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = []
    for start in ("", "{{ bos_token }}"):
        (tmp_path / "a.jinja").write_text(start + "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}")
        caplog.clear()
        encode_pairs([pair(chat("Hi"))], stories, EncodeConfig(chat_template=str(tmp_path / "a.jinja")))
        told.append([record.getMessage() for record in caplog.records])
    assert told == [["the chat template writes no BOS, though the tokenizer puts one before plain text"], []]


def test_an_empty_text_prompt_stands_on_its_bos_and_without_one_the_pair_is_dropped(stories: Any, qwen: Any) -> None:
    empty = pair("", "Tina revealed Margaret.", "The horse revealed Margaret.")
    assert encode_pairs([empty], stories).row(0).prompt.tolist() == [stories.bos_token_id]
    assert PairEncoder(qwen, EncodeConfig()).encode([empty])[0].reason == "no_prompt_token"


def test_the_eos_is_learned_even_where_it_is_also_the_pad_token(stories: Any) -> None:
    tokenizer = type(stories).from_pretrained(stories.name_or_path, pad_token=stories.eos_token)
    row = encode_pairs([pair("Once", " upon", " more")], tokenizer).row(0)
    assert row.chosen[-1] == row.rejected[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id


def test_a_reply_whose_own_text_ends_with_the_eos_gets_no_second_one(stories: Any) -> None:
    row = encode_pairs([pair("Once", " upon</s>", " more")], stories).row(0)
    assert row.chosen.tolist().count(stories.eos_token_id) == 1


@pytest.mark.parametrize("text", [" upon</s> a time", " upon</s></s>"])
def test_a_reply_that_holds_an_eos_inside_is_dropped_by_reason(stories: Any, text: str) -> None:
    assert PairEncoder(stories, EncodeConfig()).encode([pair("Once", text, " more")])[0].reason == "eos_in_reply"


def test_a_reply_that_holds_a_turn_end_is_dropped_and_a_question_that_does_is_not(qwen: Any) -> None:
    encoder = PairEncoder(qwen, EncodeConfig())
    inside = encoder.encode([pair(chat("Hi"), "Yes.<|im_end|>", "No."), pair(chat("What is <|im_end|>?"))])
    assert [each.reason for each in inside] == ["eos_in_reply", ""]


def test_all_ids_that_stop_generation_end_a_turn(tmp_path: Path) -> None:
    # as in Gemma: the tokenizer's EOS is <eos>, the generation config also names <end_of_turn>
    gemma = HOUSES[3]
    tokenizer = gemma.tokenizer()
    (tmp_path / "gemma.jinja").write_text(gemma.jinja)
    turn_end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    encoder = PairEncoder(tokenizer, EncodeConfig(chat_template=str(tmp_path / "gemma.jinja")), [turn_end, 10**9])
    assert encoder.eos_ids == (tokenizer.eos_token_id, turn_end)
    made = encoder.encode([pair(chat("Hi"))])[0].made
    assert made is not None
    assert tokenizer.decode(made.row.chosen) == "Gladly.<end_of_turn>"


@pytest.mark.parametrize("name", ["qwen", "minimind"])
def test_conversations_render_as_transformers_renders_them(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    template = load_template(tokenizer, "auto")
    assert template is not None
    for conversation in CONVERSATIONS:
        turns = [dataclasses.asdict(message) for message in conversation]
        asked = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert template.render(conversation) == asked
        turns.append({"role": "assistant", "content": "Aye"})
        assert template.render(conversation, "Aye") == tokenizer.apply_chat_template(turns, tokenize=False)


def test_a_template_that_writes_the_date_renders_the_same_on_every_day(stories: Any, tmp_path: Path) -> None:
    (tmp_path / "dated.jinja").write_text("{{ strftime_now('%d %b %Y') }}{{ messages[-1].content }}")
    template = load_template(stories, str(tmp_path / "dated.jinja"))
    assert template is not None
    assert template.render(chat(" hi")) == "26 Jul 2024 hi"


def test_conversations_without_a_template_are_refused_with_what_to_set(stories: Any) -> None:
    with pytest.raises(ConfigError, match=r"set `encode\.chat_template: plain`"):
        encode_pairs([pair(chat("Hi"))], stories)


def test_the_plain_template_reads_like_a_transcript(stories: Any) -> None:
    row = encode_pairs([pair(CONVERSATIONS[2])], stories, EncodeConfig(chat_template="plain")).row(0)
    text = stories.decode([*row.prompt, *row.chosen], skip_special_tokens=True)
    assert text.endswith("Be kind.\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: And?\n\nAssistant: Gladly.")


def test_text_can_be_what_a_user_asks(qwen: Any) -> None:
    as_chat = encode_pairs([pair("Hi")], qwen, EncodeConfig(text_as="chat"))
    assert as_chat.row(0).prompt.tolist() == encode_pairs([pair(chat("Hi"))], qwen).row(0).prompt.tolist()


def test_a_conversation_that_the_template_refuses_is_dropped_with_its_words(qwen: Any, tmp_path: Path) -> None:
    (tmp_path / "strict.jinja").write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn here') }}{% endif %}"
        "{% for m in messages %}{{ m.role + ':' + m.content + '<|im_end|>' }}{% endfor %}"
    )
    encoder = PairEncoder(qwen, EncodeConfig(chat_template=str(tmp_path / "strict.jinja")))
    kept, dropped = encoder.encode([pair(CONVERSATIONS[0]), pair(CONVERSATIONS[2])])
    assert kept.made is not None
    assert (dropped.reason, dropped.detail) == ("template_refused", "no system turn here")


@pytest.mark.parametrize(
    ("jinja", "told"),
    [
        ("{% for m in messages %}", "not valid jinja"),
        ("{{ messages[0].content }}", "leaves the assistant's reply out"),
        ("{{ raise_exception('never') }}", "fails on one question and a reply: never"),
    ],
)
def test_a_template_that_cannot_work_is_refused_at_once(qwen: Any, tmp_path: Path, jinja: str, told: str) -> None:
    (tmp_path / "bad.jinja").write_text(jinja)
    with pytest.raises(ConfigError, match=told):
        PairEncoder(qwen, EncodeConfig(chat_template=str(tmp_path / "bad.jinja")))


def test_a_template_file_that_is_missing_is_refused_by_name(qwen: Any) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.jinja"):
        PairEncoder(qwen, EncodeConfig(chat_template="nowhere.jinja"))


def test_a_tokenizer_without_an_eos_is_refused() -> None:
    tokenizer = byte_tokenizer(None, "<eos>", "<only for this test>")
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="no EOS token"):
        PairEncoder(tokenizer, EncodeConfig())


def test_an_end_token_that_is_found_at_a_text_s_beginning_only_ends_every_reply(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from tokenizers import AddedToken, normalizers

    tokenizer = byte_tokenizer(None, "<unused>")
    core = tokenizer.backend_tokenizer  # as early Llamas: the end token's own text is normalised, too
    core.normalizer = normalizers.Prepend("_")
    core.add_special_tokens([AddedToken("</s>", normalized=True)])
    tokenizer.eos_token = "</s>"
    assert tokenizer("</s>")["input_ids"] == [tokenizer.eos_token_id] != tokenizer("a</s>")["input_ids"][-1:]

    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ':' + m.content + '</s>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    coder = PairEncoder(tokenizer, EncodeConfig())
    made = coder.encode([pair(chat("Why?"), "Since.", "No.")])[0].made
    assert made is not None
    assert made.row.chosen.tolist()[-1] == tokenizer.eos_token_id
    assert [tokenizer.decode(ids[:-1]) for ids in (made.row.chosen, made.row.rejected)] == ["Since.", "No."]
    coder.facts.warn()
    assert "finds no end token" in caplog.text


def test_a_chat_template_that_is_no_text_is_refused() -> None:
    tokenizer = byte_tokenizer(None, "</s>")
    tokenizer.chat_template = 5
    with pytest.raises(ConfigError, match="`chat_template` is 5, and no text"):
        PairEncoder(tokenizer, EncodeConfig())
