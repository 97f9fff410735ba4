"""What is cut, what is dropped, and what both branches keep."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.core.errors import ConfigError, DataError
from tasks.core.params import build
from tasks.pairs.encoding.assemble import Assembled
from tasks.pairs.encoding.encoder import DROP_REASONS, EncodeConfig, EncodedPair, PairEncoder, encode_pairs
from tasks.pairs.record.pair import Pair
from tests.pairs.samples import chat, pair

LONG = "one two three four five six seven eight nine ten"


def encode(tokenizer: Any, one: Pair, **config: Any) -> EncodedPair:
    return PairEncoder(tokenizer, EncodeConfig(**config)).encode([one])[0]


def made(tokenizer: Any, one: Pair, **config: Any) -> Assembled:
    found = encode(tokenizer, one, **config).made
    assert found is not None
    return found


def test_a_long_prompt_keeps_its_end_the_same_for_both_branches(qwen: Any) -> None:
    cut = made(qwen, pair(LONG, " eleven", " tomato soup"), max_prompt_tokens=4)
    assert qwen.decode(cut.row.prompt) == " seven eight nine ten"
    assert qwen.decode(cut.row.chosen) == " eleven<|im_end|>"
    assert qwen.decode(cut.row.rejected) == " tomato soup<|im_end|>"
    assert cut.cut == (True, False, False)


def test_a_prompt_cut_in_a_conversation_is_the_same_for_replies_of_any_length(minimind: Any) -> None:
    found = made(minimind, pair(chat(LONG * 5), LONG * 3, "No."), max_prompt_tokens=16, max_completion_tokens=8)
    whole = made(minimind, pair(chat(LONG * 5), LONG * 3, "No."), max_prompt_tokens=500, max_completion_tokens=500)
    assert found.row.prompt.tolist() == whole.row.prompt.tolist()[-16:]


def test_a_cut_prompt_keeps_its_bos(stories: Any) -> None:
    cut = made(stories, pair(LONG, " eleven", " soup"), max_prompt_tokens=6)
    whole = made(stories, pair(LONG, " eleven", " soup"))
    assert cut.row.prompt.tolist() == [stories.bos_token_id, *whole.row.prompt.tolist()[-5:]]


def test_a_reply_cut_short_does_not_teach_where_to_stop(qwen: Any) -> None:
    cut = made(qwen, pair("Count:", " " + LONG, " No"), max_completion_tokens=4)
    assert qwen.decode(cut.row.chosen) == " one two three four"
    assert qwen.decode(cut.row.rejected) == " No<|im_end|>"
    assert cut.cut == (False, True, False)


def test_a_reply_that_just_fits_keeps_its_end(qwen: Any) -> None:
    fits = made(qwen, pair("Count:", " one two three", " No"), max_completion_tokens=4)
    assert fits.row.chosen[-1] == qwen.eos_token_id
    assert fits.cut == (False, False, False)


def test_the_prompt_to_answer_is_cut_like_the_row_s(qwen: Any) -> None:
    encoded = encode(qwen, pair(LONG, " eleven", " soup"), max_prompt_tokens=4)
    assert encoded.made is not None
    assert encoded.prompt.tolist() == encoded.made.row.prompt.tolist()


@pytest.mark.parametrize(
    ("one", "config", "reason"),
    [
        (pair("Count:", " " + LONG, " " + LONG + "!"), {"max_completion_tokens": 4}, "identical_completions"),
        (pair(LONG, " yes", " no"), {"max_prompt_tokens": 4, "truncation": "drop"}, "prompt_too_long"),
        (pair("A", " " + LONG, " no"), {"max_completion_tokens": 4, "truncation": "drop"}, "completion_too_long"),
        (pair("A", " ", " no"), {}, "empty_reply"),
        (pair("", "yes", "no"), {}, "no_prompt_token"),
        (pair(" ", "yes", "no"), {}, "no_prompt_token"),
    ],
)
def test_a_pair_without_a_signal_is_dropped_with_its_reason(
    qwen: Any, one: Pair, config: dict[str, Any], reason: str
) -> None:
    found = encode(qwen, one, **config)
    assert (found.made, found.reason) == (None, reason)
    assert found.detail
    assert reason in DROP_REASONS


def test_replies_that_differ_only_in_characters_the_tokenizer_does_not_know_are_dropped(shared: Any) -> None:
    from tests.pairs.samples import real_tokenizer

    tokenizer = real_tokenizer(shared / "models/tinystories-656K")
    assert encode(tokenizer, pair("He said", " é", " ü")).reason == "identical_completions"


def test_drop_leaves_what_fits_as_it_is(qwen: Any) -> None:
    pairs = [pair("A", " yes", " no"), pair(chat("Hi"))]
    cut, drop = (encode_pairs(pairs, qwen, EncodeConfig(truncation=how)) for how in ("cut", "drop"))  # type: ignore[arg-type]
    assert cut.digest() == drop.digest()


def test_nothing_left_is_an_error_that_names_the_reasons(qwen: Any) -> None:
    with pytest.raises(DataError, match="no_prompt_token"):
        encode_pairs([pair("", "yes", "no")], qwen)


@pytest.mark.parametrize(
    ("key", "value"), [("max_prompt_tokens", 1), ("max_completion_tokens", 0), ("truncation", "left"), ("text_as", 1)]
)
def test_a_wrong_param_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"encode.{key}"):
        build(EncodeConfig, {key: value}, "encode")
