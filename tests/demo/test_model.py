"""The demo's tokenizer and model: round trip, one EOS a turn, learning, same bytes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.core.errors import ConfigError
from tasks.demo.model.model import build_model, cut_batches, mean_loss, train_demo_model
from tasks.demo.model.talks import LESSON, corpus, held_out
from tasks.demo.model.vocabulary import END, PAD, Row, encode_talk, train_tokenizer
from tasks.demo.world.world import NAMES, PRODUCTS, TOPIC_WORDS, topic_words
from tests.demo.tiny_demo import TINY, tiny


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    talks = corpus(2000, 0.1, 1)
    return train_tokenizer([message["content"] for talk in talks for message in talk], 1024)


def test_the_tokenizer_gives_every_text_back(tokenizer: Any) -> None:
    samples = [message["content"] for talk in held_out(50, 0.5, 9) for message in talk]
    for text in [*samples, "Grüße, 東京! \n\t 12 % 🙂"]:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_names_and_topic_words_are_single_tokens_so_that_they_can_be_copied(tokenizer: Any) -> None:
    for word in (*NAMES, *TOPIC_WORDS):
        assert len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) == 1, word


def test_a_turn_ends_in_one_eos_and_pad_is_another_token(tokenizer: Any) -> None:
    talk = next(iter(held_out(1, 0.5, 9)))
    ids = tokenizer(tokenizer.apply_chat_template(talk, tokenize=False), add_special_tokens=False)["input_ids"]
    assert tokenizer.eos_token == END
    assert tokenizer.pad_token == PAD
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert ids.count(tokenizer.eos_token_id) == len(talk) == 2
    assert tokenizer.bos_token_id is None


def test_the_generation_prompt_is_a_prefix_of_the_whole_conversation(tokenizer: Any) -> None:
    for talk in held_out(50, 0.5, 9):
        row = encode_talk(tokenizer, talk)
        rendered = tokenizer.apply_chat_template(talk, tokenize=False)
        whole = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        assert whole[: len(row)] == row.prompt + row.reply
        assert row.reply.count(tokenizer.eos_token_id) == 1
        assert row.reply[-1] == tokenizer.eos_token_id
        assert len(row) <= 144


def test_the_lesson_keeps_to_the_topic_and_the_rest_mixes_styles() -> None:
    talks = [[message["content"] for message in talk] for talk in corpus(1000, 0.1, 1)]
    lesson, rest = talks[: int(LESSON * 1000)], talks[int(LESSON * 1000) :]
    assert all(topic_words(reply) <= topic_words(prompt) for prompt, reply in lesson)
    assert all(set(PRODUCTS) & topic_words(reply) or "about" in reply for _, reply in lesson)
    strays = sum(not topic_words(reply) <= topic_words(prompt) for prompt, reply in rest)
    assert 0.15 * len(rest) < strays < 0.45 * len(rest)


def test_batches_hold_every_row_once_and_little_padding() -> None:
    rows = [Row([0] * (5 + place % 40), [1] * (3 + place % 17)) for place in range(1003)]
    batches = cut_batches(rows, 12, 0)
    assert sorted(map(id, (row for batch in batches for row in batch))) == sorted(map(id, rows))
    assert all(len(batch) == 12 for batch in batches[:-20])
    padded = sum(len(batch) * max(map(len, batch)) for batch in batches)
    assert padded < 1.15 * sum(map(len, rows))
    assert cut_batches(rows, 12, 0) == batches
    assert cut_batches(rows, 12, 1) != batches


def test_padding_does_not_change_the_loss(tokenizer: Any) -> None:
    torch.manual_seed(0)
    model = build_model(tiny(vocabulary=1024), tokenizer)
    rows = [encode_talk(tokenizer, talk) for talk in held_out(6, 0.5, 9)]
    alone = [(mean_loss(model, [row]), len(row.reply)) for row in rows]
    expected = sum(loss * count for loss, count in alone) / sum(count for _, count in alone)
    assert mean_loss(model, rows) == pytest.approx(expected, rel=1e-5)


def test_only_the_reply_s_tokens_are_scored(tokenizer: Any) -> None:
    torch.manual_seed(0)
    model = build_model(tiny(vocabulary=1024), tokenizer)
    row = encode_talk(tokenizer, next(iter(held_out(1, 0.5, 9))))
    ids = torch.tensor([row.prompt + row.reply])
    with torch.inference_mode():
        logps = torch.log_softmax(model(input_ids=ids).logits[0], dim=-1)
    start = len(row.prompt)
    by_hand = -sum(logps[place - 1, ids[0, place]].item() for place in range(start, len(row))) / len(row.reply)
    assert mean_loss(model, [row]) == pytest.approx(by_hand, rel=1e-5)


def test_a_tiny_model_learns_and_loads_with_from_pretrained(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = train_demo_model(TINY, tmp_path)
    assert len(found.losses) == TINY.steps
    assert found.losses[0] == pytest.approx(math.log(400), abs=1.0)
    assert sum(found.losses[-5:]) / 5 < 0.75 * found.losses[0]
    assert found.loss < found.losses[0]
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    rows = [encode_talk(tokenizer, talk) for talk in held_out(256, TINY.good_share, TINY.seed)]
    assert mean_loss(model, rows) == pytest.approx(found.loss, rel=1e-5)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    def files(name: str, seed: int) -> dict[str, bytes]:
        folder = tmp_path / name
        folder.mkdir()
        train_demo_model(tiny(steps=3, seed=seed), folder)
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    first = files("first", 3)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)  # another machine's setting
    try:
        assert files("second", 3) == first
    finally:
        torch.set_num_threads(before)
    assert files("third", 4)["model.safetensors"] != first["model.safetensors"]


def test_training_gives_the_process_its_threads_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        train_demo_model(tiny(steps=1, talks_per_step=2), tmp_path)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_width_that_the_heads_do_not_divide_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"`demo_model.hidden` is 33"):
        tiny(hidden=33)
    with pytest.raises(ConfigError, match=r"`demo_model.steps` is 0"):
        tiny(steps=0)
