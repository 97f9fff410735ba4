"""The split: by prompt, stable, and of about the share asked for."""

from __future__ import annotations

import pytest

from tasks.core.errors import DataError
from tasks.pairs.ingestion.split import is_held_out, normal_text, split_key, split_key_of, split_pairs, split_text
from tasks.pairs.record.pair import Message, Pair, Prompt
from tests.pairs.samples import chat


def many(count: int) -> list[Pair]:
    return [Pair(f"Question {i // 3}", f"yes {i}", f"no {i}") for i in range(count)]


def test_no_prompt_stands_on_both_sides_and_no_pair_is_lost() -> None:
    train, test = split_pairs(many(3000), 0.2)
    assert len(train) + len(test) == 3000
    assert not {pair.prompt_id for pair in train} & {pair.prompt_id for pair in test}


def test_the_share_is_about_the_one_asked_for() -> None:
    _, test = split_pairs(many(30000), 0.1)
    # 10,000 prompts at 0.1: standard deviation 0.003
    assert abs(len(test) / 30000 - 0.1) < 0.012


def test_new_data_never_move_old_pairs() -> None:
    old_train, old_test = split_pairs(many(900), 0.1)
    train, test = split_pairs(reversed([Pair(chat("New"), "a", "b"), *many(3000)]), 0.1)
    assert set(old_train) <= set(train)
    assert set(old_test) <= set(test)


def test_raising_the_share_only_adds_to_the_test_set() -> None:
    small, large = (set(split_pairs(many(3000), share)[1]) for share in (0.1, 0.2))
    assert small < large


def test_another_seed_holds_out_other_prompts() -> None:
    first, second = ([is_held_out(split_key(f"{i}", seed), 0.5) for i in range(100)] for seed in (0, 1))
    assert first != second


def test_an_empty_side_is_an_error_that_names_it() -> None:
    with pytest.raises(DataError, match="the test set is empty"):
        split_pairs(many(3), 1e-9)
    with pytest.raises(DataError, match="the training set is empty"):
        split_pairs(many(3), 1 - 1e-9)


@pytest.mark.parametrize(
    "prompt",
    [
        "what is\tDPO",
        "  What is: DPO?!\n",
        "WHAT IS _DPO_",
        "ｗｈａｔ　ｉｓ　ＤＰＯ？",
        "What is D\u00adPO",
        chat("What is DPO?"),
        (Message("system", "Be brief."), Message("user", "What is DPO?")),
    ],
)
def test_prompts_that_differ_in_case_spaces_punctuation_or_the_system_turn_are_one_for_the_split(
    prompt: str | tuple[Message, ...],
) -> None:
    assert split_text(Pair(prompt, "a", "b")) == "what is dpo"


@pytest.mark.parametrize(
    ("one", "other"), [("don't", "dont"), ("e-mail", "email"), ("1,000", "1000"), ("web site", "website"), ("☺️", "☺")]
)
def test_a_space_or_a_mark_within_a_word_does_not_part_two_prompts(one: str, other: str) -> None:
    keys = {split_key(split_text(Pair(f"Write about {text} today", "a", "b"))) for text in (one, other)}
    assert len(keys) == 1


def test_other_words_are_other_prompts_for_the_split() -> None:
    prompts = [
        *(chat("A", "B", "C"), chat("A", "B", "D")),
        *("हिन्दी", "हिन्दू", "की", "कि", "5 items", "6 items", "中文", "中又", "é", "e", "x²", "x3"),
    ]
    assert len({split_key(split_text(Pair(prompt, "a", "b"))) for prompt in prompts}) == len(prompts)


def test_documents_are_part_of_a_prompt_for_the_split_and_tools_are_not() -> None:
    inputs = ['{"documents":[{"text":"A"}]}', '{"documents":[{"text":"B"}]}', '{"tools":[{"name":"f"}]}', ""]
    assert len({split_text(Pair("Sum up.", "a", "b", inputs=text)) for text in inputs}) == 3


def test_a_prompt_without_words_is_decided_by_its_json() -> None:
    assert [split_text(Pair(prompt, "a", "b")) for prompt in ("?!", "🙂")] == ['"?!"', '"🙂"']
    assert split_text(Pair((Message("system", "S"), Message("user", "?")), "a", "b")).startswith('[{"content":"S"')


def test_the_same_characters_written_otherwise_are_the_same_words() -> None:
    assert normal_text("Cafe\u0301, STRASSE, ﬁt") == normal_text("café Straße fit") == "café strasse fit"


def test_variants_of_one_prompt_never_leak() -> None:
    variants = [
        Pair(text, f"yes {i}", f"no {i}")
        for i in range(300)
        for text in (f"Tell me about No {i}.", f"tell me about no {i}", f"TELL ME, about NO-{i}!")
    ]
    train, test = split_pairs(variants, 0.3)
    assert not {split_text(pair) for pair in train} & {split_text(pair) for pair in test}
    assert len(test) % 3 == 0


@pytest.mark.parametrize(
    "prompt", ["How is the Kettle?", "e-mail 7!", "?!", "", "Tür", "ﬁne", (Message("user", "How?"),)]
)
def test_the_short_way_to_a_key_is_the_long_one(prompt: Prompt) -> None:
    for inputs in ("", '{"documents":["a"]}'):
        pair = Pair(prompt, "Yes.", "No.", inputs=inputs)
        assert split_key_of(pair, 3) == split_key(split_text(pair), 3)
