"""Which side of the split a pair stands on: a pure function of its prompt's words.

The side depends on the words, the share and the seed alone. So prompts that differ only in case, spaces, punctuation or
their system turn never stand on both sides, and data that arrive later never move a row that was already there.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping

from tasks.core.errors import DataError
from tasks.pairs.record.pair import Pair, Prompt

_ASCII = bytes(ord(chr(i).lower()) if chr(i).isascii() and chr(i).isalnum() else 32 for i in range(256))
_SIGNS = bytes(code for code in range(256) if _ASCII[code] == ord(" "))

# What left most of the pairs out where a side is empty, and what to do then.
_EMPTIED = {
    "contradiction": (
        "also stand with chosen and rejected swapped",
        "name every column that the prompt is made of under `ingest.columns`, or set `ingest.contradictions: keep`",
    ),
    "unpaired": (
        "are single answers that no other answer to their prompt can be compared with",
        "add answers to the same prompts that were judged otherwise",
    ),
    "kept_out": (
        "have prompts of evaluation sets",
        "take sets that share their prompts' wording with the pairs out of `ingest.keep_out`",
    ),
    "near_both_sides": (
        "have prompts that are near to prompts of train and of test",
        "set `ingest.near_duplicates: words`, or add data with other prompts",
    ),
    "near": (
        "have prompts that are near to an earlier one",
        "set `ingest.near_duplicates: words`, or add data with other prompts",
    ),
    "in_test_source": (
        "have prompts that stand in sources with `split: test`",
        "name data with other prompts to train on, or leave `split: test` out",
    ),
}


class _Letters(dict[int, str]):
    """A table for :meth:`str.translate` that keeps letters, digits and marks, and fills itself as characters occur."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        is_invisible = category == "Cf" or 0xFE00 <= code <= 0xFE0F  # format characters, variation selectors
        is_kept = category[0] in "LN" or category in ("Mn", "Mc")
        self[code] = "" if is_invisible else char if is_kept else " "
        return self[code]


_LETTERS = _Letters()


def normal_text(text: str) -> str:
    """Return the words of a text: casefolded, with single spaces in place of all other characters.

    Compatible characters are one (NFKC: full-width letters, ligatures). Marks, such as vowel signs, belong to words.
    Soft hyphens, joiners and variation selectors are left out.
    """
    if text.isascii():
        return b" ".join(text.encode().translate(_ASCII).split()).decode()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.translate(_LETTERS).split())


def split_text(pair: Pair) -> str:
    """Return what the side of a pair depends on: the words of its prompt, without its system turns and tools.

    A prompt without any letter or digit stands as its canonical JSON.
    """
    return prompt_words(pair.prompt, pair.inputs) or pair.prompt_json


def prompt_words(prompt: Prompt, inputs: str = "") -> str:
    """Return the words of a prompt's turns, except system turns, and of its documents.

    Args:
        prompt: Text, or messages.
        inputs: As :attr:`Pair.inputs`.
    """
    text = prompt if isinstance(prompt, str) else "\n".join(turn.content for turn in prompt if turn.role != "system")
    if "documents" in inputs:
        text += "\n" + json.dumps(json.loads(inputs).get("documents", ""), ensure_ascii=False)
    return normal_text(text)


def split_key(text: str, seed: int = 0) -> int:
    """Return the hash of 64 bits that decides on the side of a :func:`split_text`.

    Spaces do not count: "don't" and "dont", "e-mail" and "email" have one key.
    """
    return _hash_of(text.replace(" ", "").encode(), seed)


def split_key_of(pair: Pair, seed: int = 0) -> int:
    """Return the :func:`split_key` of a pair's :func:`split_text`, faster for plain ASCII text."""
    text = pair.prompt
    if isinstance(text, str) and text.isascii() and not pair.inputs:
        letters = text.encode().translate(_ASCII, _SIGNS)
        if letters:
            return _hash_of(letters, seed)
    return split_key(split_text(pair), seed)


def _hash_of(letters: bytes, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(b"split %d\n%b" % (seed, letters)).digest()[:8], "big")


def is_held_out(key: int, test_share: float) -> bool:
    """Tell whether pairs with this :func:`split_key` belong to the test pairs."""
    return key < test_share * 2**64


def split_pairs(pairs: Iterable[Pair], test_share: float, seed: int = 0) -> tuple[list[Pair], list[Pair]]:
    """Split pairs by the words of their prompts into (train, test), each in the order given.

    Raises:
        DataError: One side would be empty.
    """
    sides: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in pairs:
        sides[is_held_out(split_key_of(pair, seed), test_share)].append(pair)
    check_sides(len(sides[0]), len(sides[1]), test_share)
    return sides


def check_sides(train: int, test: int, test_share: float, left_out: Mapping[str, int] | None = None) -> None:
    """Refuse a split that leaves no pair to train on, or none to test on.

    ``left_out`` is the number of rows and of usable pairs on neither side, by reason; `near` is that of near-duplicate
    prompts.

    Raises:
        DataError: Saying which side is empty.
    """
    if train and test:
        return
    for reason, (what, advice) in _EMPTIED.items():
        count = (left_out or {}).get(reason, 0)
        if count > {"in_test_source": train, "near": (train + test) // 2}.get(reason, train + test):
            given = "rows" if reason == "unpaired" else "pairs"
            raise DataError(f"{count} {given} {what}, which leaves {train} training and {test} test pairs", advice)
    side, advice = ("training", "lower") if not train else ("test", "raise")
    raise DataError(
        f"the {side} set is empty: {train} training and {test} test pairs at a test share of {test_share}",
        f"{advice} `ingest.test_share`, or add pairs with other prompts",
    )
