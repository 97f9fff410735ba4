"""Where the prompt ends and the replies begin: the longest common token prefix, on real tokenizers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tasks.pairs.encoding.encoder import EncodeConfig, PairEncoder, encode_pairs
from tasks.pairs.record.pair import Pair
from tests.pairs.samples import chat, pair

PIECES = (
    *("the", " the", "ing", " ", "  ", "\n", "\n\n", "\t", " \n", ".", "?", "!", "'s", ":", " (A)", " (B)", "123", "4"),
    *("t", "h", "e", "re", "nd", "a", " a", "s", " s", "ai", "wh", "o", "u", "l"),
    *(
        "é",
        "e\u0301",
        "ß",
        "中文",
        "的",
        "🙂",
        "👩‍👩‍👧",
        "\u200b",
        "\xa0",
        "ﬁ",
        "Ω",
        "\u202e",
        "ا",
        "_",
        "__",
        "<s",
        "|>",
    ),
)
ROOMY = EncodeConfig(max_prompt_tokens=10_000, max_completion_tokens=10_000)


def random_pairs(seed: int, count: int) -> list[Pair]:
    """Texts whose prompt often ends, and whose replies often begin, where tokens like to merge."""
    rng = random.Random(seed)

    def text(most: int) -> str:
        return "".join(rng.choice(PIECES) for _ in range(rng.randint(1, most)))

    made = []
    while len(made) < count:
        start = text(2) if rng.random() < 0.5 else ""  # half of the pairs begin their replies alike
        found = Pair(text(8), start + text(6), start + text(6))
        if found.chosen != found.rejected and found.chosen.strip() and found.rejected.strip():
            made.append(found)
    return made


@pytest.mark.parametrize("name", ["qwen", "minimind", "stories"])
def test_the_boundary_is_the_longest_common_token_prefix(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    bos = [tokenizer.bos_token_id] if name == "stories" else []
    shifted = 0
    pairs = random_pairs(20240607, 400)
    texts = [text for p in pairs for text in (p.prompt, p.prompt + p.chosen, p.prompt + p.rejected)]  # type: ignore[operator]
    ids = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    for made in PairEncoder(tokenizer, ROOMY).encode(pairs):
        prompt, chosen, rejected = (bos + next(ids) for _ in range(3))
        if made.made is None:
            assert made.reason in ("no_prompt_token", "identical_completions")
            continue
        row = made.made.row
        at = len(row.prompt)
        # the whole text is tokenised as one, and nothing of it is lost or added but one EOS
        assert [*row.prompt, *row.chosen] == [*chosen, tokenizer.eos_token_id]
        assert [*row.prompt, *row.rejected] == [*rejected, tokenizer.eos_token_id]
        # the boundary is common to all three, and one token more would not be
        assert prompt[:at] == chosen[:at] == rejected[:at]
        assert at == len(prompt) or not (prompt[: at + 1] == chosen[: at + 1] == rejected[: at + 1])
        assert made.made.is_shifted == (at < len(prompt))
        shifted += made.made.is_shifted
    assert shifted > 10, "the texts were meant to merge over the boundary"


def test_a_trailing_space_merges_into_the_reply_and_not_into_the_prompt(qwen: Any) -> None:
    row = encode_pairs([pair("Answer: ", "Yes", "No")], qwen).row(0)
    assert qwen.decode(row.prompt) == "Answer:"
    assert qwen.decode(row.chosen) == " Yes<|im_end|>"


def test_a_first_token_that_both_replies_share_belongs_to_the_replies(qwen: Any) -> None:
    row = encode_pairs([pair("Say it.", " Yes, please", " Yes, thanks")], qwen).row(0)
    assert qwen.decode(row.prompt) == "Say it."
    assert qwen.decode(row.rejected) == " Yes, thanks<|im_end|>"


@pytest.mark.parametrize("name", ["qwen", "minimind"])
def test_a_chat_reply_begins_where_generation_would(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    prompt = chat("What is 2+2?", "4.", "And 3+3?")
    row = encode_pairs([pair(prompt, "It is 6.", "I will not say.")], tokenizer).row(0)
    messages = [{"role": turn.role, "content": turn.content} for turn in prompt]
    asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": "It is 6."}], tokenize=False)
    assert tokenizer.decode(row.prompt) == asked
    assert tokenizer.decode([*row.prompt, *row.chosen]) == whole.removesuffix("\n")
    assert tokenizer.decode(row.chosen) == "It is 6.<|im_end|>"


def test_a_template_that_renders_the_prompt_alone_differently_is_counted_and_stays_right(qwen: Any) -> None:
    # as Qwen3 does: a reply that follows gets a think block, the generation prompt has another
    thinking = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\nOK:\n{% endif %}"
    )
    tokenizer = type(qwen).from_pretrained(qwen.name_or_path, chat_template=thinking)
    made = PairEncoder(tokenizer, ROOMY).encode([pair(chat("Hi"), "Yes.", "No.")])[0]
    assert made.is_rerendered
    assert made.made is not None
    row = made.made.row
    asked = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nOK:\n"
    assert tokenizer.decode(row.prompt) == tokenizer.decode(made.prompt) == asked
    assert tokenizer.decode(row.chosen) == "Yes.<|im_end|>"


def test_padding_side_and_the_tokenizer_s_own_truncation_change_nothing(minimind: Any) -> None:
    pairs = [pair(chat("Hi", "Hello", "Why?"), "Because. " * 40, "No."), pair("Once", " upon a time", " more")]
    plain = encode_pairs(pairs, minimind)
    for side in ("left", "right"):
        other = type(minimind).from_pretrained(minimind.name_or_path, padding_side=side, truncation_side=side)
        other.backend_tokenizer.enable_padding(length=64, direction=side)
        other.backend_tokenizer.enable_truncation(max_length=8, direction=side)
        assert encode_pairs(pairs, other).digest() == plain.digest()


def test_a_batch_gives_each_pair_what_it_gets_alone(stories: Any) -> None:
    pairs = random_pairs(7, 40)
    together = PairEncoder(stories, ROOMY).encode(pairs)
    for each, made in zip(pairs, together, strict=True):
        alone = PairEncoder(stories, ROOMY).encode([each])[0]
        assert (alone.made is None) == (made.made is None)
        if alone.made and made.made:
            assert np.array_equal(alone.made.row.chosen, made.made.row.chosen)
