"""Texts that are tokenised by pieces get the ids that the tokenizer gives the whole text."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tasks.pairs.encoding.cuts import WORD_PATTERNS, Cuts
from tasks.pairs.encoding.pieces import PieceTokenizer
from tests.pairs.samples import byte_tokenizer
from tests.pairs.test_boundary import PIECES

WORDS = ("The", " the", " then", " a", " I'll", "'ll", "'S", " don't", " 12", " 3x", " x3", " §", ",", ", and", "; or")
BLANKS = (" ", "  ", "   ", "\n", " \n ", "\r\n", "\t", "\xa0", "\u2003", "\u3000", "\x1c", "\x85", "\u200b", "\ufeff")
MARKS = ("\u0301", " \u0301", "a\u0301", "Å", "ﬃ", "½", "²", "ſ", " ſ", "ı", "İ", "K", "ǅ", "ª", "々", " 々", "क्षि")
TURNS = ("<|im_start|>", "<|im_end|>\n", "<|im_start|>user\n", "<|im", "|>", "<", "<s>", "</s>", " </s> the", "<think>")
CORPUS = ["The man then said that he'll go, and the dog said don't 123 times; or the end of it."] * 9


@cache
def trained(pattern: str | None, normalizer: str = "NFC", *added: AddedToken) -> PreTrainedTokenizerFast:
    """Train byte-level BPE on a few words, split by a published pattern or (None) by ByteLevel's own."""
    core = Tokenizer(models.BPE())
    core.normalizer = getattr(normalizers, normalizer)()
    splits = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet))
    core.add_special_tokens(["</s>", "<|im_start|>", "<|im_end|>"])
    core.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")


def texts(seed: int, count: int, more: str = "") -> list[str]:
    rng = random.Random(seed)
    kinds = (PIECES, WORDS, WORDS, BLANKS, MARKS, TURNS, (more, more[:-1], more[-1:]))
    return ["".join(rng.choice(rng.choice(kinds)) for _ in range(rng.randint(0, 14))) for _ in range(count)]


def check(tokenizer: Any, count: int = 1500, more: str = "") -> None:
    """Compare the ids of prompts, with and without replies, with those of whole texts."""
    prompts, firsts, seconds = (texts(seed, count, more) for seed in range(3))
    triples = [(prompt, prompt + a, prompt + b) for prompt, a, b in zip(prompts, firsts, seconds, strict=True)]
    pieces = PieceTokenizer(tokenizer)
    given = [ids.tolist() for half in (triples[::2], triples[1::2]) for three in pieces.triples(half) for ids in three]
    whole = [text for half in (triples[::2], triples[1::2]) for three in half for text in three]
    assert given == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert pieces.ids(whole[4]).tolist() == given[4]


@pytest.mark.parametrize("name", ["qwen", "minimind", "stories"])
def test_published_tokenizers_give_the_same_ids_by_pieces(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    check(tokenizer)
    is_cut = name != "stories"  # SentencePiece puts a mark before each piece, and words merge
    assert (Cuts.of(tokenizer).words is not None) == is_cut


@pytest.mark.parametrize("normalizer", ["NFC", "NFKD"])
@pytest.mark.parametrize("pattern", [None, *WORD_PATTERNS.values()], ids=["ByteLevel", *WORD_PATTERNS])
def test_every_pattern_of_words_gives_the_same_ids_by_pieces(pattern: str | None, normalizer: str) -> None:
    tokenizer = trained(pattern, normalizer)
    cuts = Cuts.of(tokenizer)
    assert cuts.words
    text = "<|im_start|>Hi 2\u0301  a\xe9 b<|im_end|>,  (c"
    assert cuts.pieces(text) == ["<|im_start|>Hi", " 2\u0301  a\xe9 b", "<|im_end|>,", "  (c"]
    check(tokenizer, count=700)


@pytest.mark.parametrize(
    ("added", "has_words"),
    [
        (AddedToken("<mask>", lstrip=True), False),
        (AddedToken("<mask>", rstrip=True), False),
        (AddedToken("then", single_word=True), False),
        (AddedToken("said that", normalized=False), False),
        (AddedToken("the", normalized=False), True),
        (AddedToken("</s> the", normalized=False), False),
        (AddedToken("x<|im_start|>x", normalized=False), True),
        (AddedToken("<|im_start|>x<|im_end|>", normalized=False), True),
        (AddedToken("\xc5", normalized=True), True),
    ],
    ids=lambda value: getattr(value, "content", None),
)
def test_an_added_token_that_reaches_over_a_cut_takes_it_away(added: AddedToken, has_words: bool) -> None:
    tokenizer = trained(WORD_PATTERNS["Qwen 2"], "NFC", added)
    assert (Cuts.of(tokenizer).words is not None) == has_words
    check(tokenizer, 700, added.content)


def test_a_tokenizer_that_guarantees_nothing_gets_whole_texts() -> None:
    class Own(PreTrainedTokenizerFast):
        def _encode_plus(self, text: Any, *given: Any, **more: Any) -> Any:
            return super()._encode_plus([each[::-1] for each in text], *given, **more)

    core = trained(None).backend_tokenizer
    assert Cuts.of(Own(tokenizer_object=core)) == Cuts()
    check(Own(tokenizer_object=core), count=200)
    assert Cuts.of(PreTrainedTokenizerFast(tokenizer_object=core, split_special_tokens=True)) == Cuts()
    assert Cuts.of(trained(r"[^\r\n]+")).words is None  # this pattern's matches hold spaces
    check(trained(r"[^\r\n]+"), count=200)


def test_what_was_kept_of_earlier_texts_is_forgotten_and_the_ids_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.pairs.encoding.pieces._KEEP_IDS", 50)
    tokenizer = byte_tokenizer("<s>", "</s>")
    pieces = PieceTokenizer(tokenizer)
    for text in texts(3, 60):
        assert pieces.ids(text).tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
