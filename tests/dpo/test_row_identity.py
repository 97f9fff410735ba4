"""Keys of scored rows: different wherever a log-probability may be, the same wherever it cannot."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from tasks.dpo.reference import row_identity
from tasks.dpo.reference.row_identity import ReferenceIdentity, compute_identity, row_keys
from tasks.pairs.tokens.token_cache import TokenPairs, TokenRow
from tests.dpo import tiny
from tests.rules import closure
from tests.rules.source import ROOT

BASE = ReferenceIdentity(base="a" * 64, adapter=None, compute="float32")
PAIRS = tiny.pairs(9)


def one_row(prompt: list[int], chosen: list[int], rejected: list[int]) -> TokenPairs:
    row = TokenRow(*(np.array(part, np.int32) for part in (prompt, chosen, rejected)))
    return TokenPairs.of_rows([row], ["0"], ["0"])


def key(tokens: TokenPairs, identity: ReferenceIdentity = BASE) -> bytes:
    return row_keys(tokens, identity.digest).tobytes()


def test_a_key_is_the_hash_of_identity_boundaries_and_tokens():
    # P, C, R = 2, 1, 3, then the ids, each as four bytes, the lowest first
    numbers = [2, 1, 3, 5, 6, 7, 8, 9, 300]
    expected = hashlib.sha256(BASE.digest.encode() + b"".join(n.to_bytes(4, "little") for n in numbers)).digest()
    assert key(one_row([5, 6], [7], [8, 9, 300])) == expected


def test_every_row_has_its_own_key_whatever_stands_around_it():
    keys = row_keys(PAIRS, BASE.digest)
    assert (keys.shape, keys.dtype) == ((9, 32), np.uint8)
    assert len({bytes(k) for k in keys}) == 9
    turned = TokenPairs.of_rows([PAIRS.row(i) for i in reversed(range(9))], ["x"] * 9, ["y"] * 9)
    assert np.array_equal(row_keys(turned, BASE.digest), keys[::-1])
    assert row_keys(TokenPairs.of_rows([], [], []), BASE.digest).shape == (0, 32)


FIRST = one_row([5, 6], [7, 2], [8, 9, 2])
VARIANTS = {
    "the end token of chosen is missing": one_row([5, 6], [7], [8, 9, 2]),
    "the end token of rejected is missing": one_row([5, 6], [7, 2], [8, 9]),
    "the prompt ends a token earlier": one_row([5], [6, 7, 2], [8, 9, 2]),
    "chosen ends a token later": one_row([5, 6], [7, 2, 8], [9, 2]),
    "the branches change places": one_row([5, 6], [8, 9, 2], [7, 2]),
    "one token is another": one_row([5, 6], [7, 2], [8, 10, 2]),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_row_that_differs_in_its_end_its_boundary_or_a_token_has_another_key(name: str):
    assert key(VARIANTS[name]) != key(FIRST)


@pytest.mark.parametrize(
    "changed", [{"base": "b" * 64}, {"adapter": "c" * 64}, {"compute": "bfloat16"}], ids=["base", "adapter", "compute"]
)
def test_another_base_adapter_or_computation_gives_other_keys(changed: dict[str, str]):
    other = dataclasses.replace(BASE, **changed)
    assert not (row_keys(PAIRS, other.digest) == row_keys(PAIRS, BASE.digest)).all(axis=1).any()


def test_the_parts_of_an_identity_cannot_be_taken_for_each_other():
    swapped = [ReferenceIdentity("x", "y", "z"), ReferenceIdentity("y", "x", "z"), ReferenceIdentity("x", None, "y")]
    assert len({identity.digest for identity in swapped}) == 3


def test_identities_of_pairs_weights_and_margins_are_in_no_key():
    other = dataclasses.replace(
        PAIRS, weights=PAIRS.weights * 2, margins=PAIRS.margins + 1, pair_ids=PAIRS.prompt_ids[::-1].copy()
    )
    assert np.array_equal(row_keys(other, BASE.digest), row_keys(PAIRS, BASE.digest))


def words(vocabulary: str) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary.split())}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def encoded(tokenizer: Tokenizer, template: str, longest: int, keeps: str) -> TokenPairs:
    """A small encoder: template, tokens, and truncation of the prompt at one of its ends."""
    prompt = tokenizer.encode(template.format("how are you")).ids
    prompt = prompt[-longest:] if keeps == "end" else prompt[:longest]
    return one_row(prompt, tokenizer.encode("very well").ids, tokenizer.encode("go away").ids)


def test_length_truncation_template_and_tokenizer_change_the_key_if_and_only_if_they_change_a_token():
    usual = words("? how are you very well go away user :")
    first = key(encoded(usual, "user : {}", 9, "end"))
    assert key(encoded(usual, "user : {}", 3, "end")) != first, "another length that cuts"
    assert key(encoded(usual, "user : {}", 3, "start")) != key(encoded(usual, "user : {}", 3, "end")), "another side"
    assert key(encoded(usual, "{}", 9, "end")) != first, "another template"
    assert key(encoded(words("? you are how very well go away user :"), "user : {}", 9, "end")) != first
    assert key(encoded(usual, "user : {}", 8, "end")) == first, "a length that cuts nothing: the values are the same"
    assert key(encoded(words("? how are you very well go away user : new"), "user : {}", 9, "end")) == first


def test_the_code_of_a_key_is_that_of_the_rooms_that_score_and_of_no_other():
    rooms = {path.relative_to(ROOT).as_posix() for path in row_identity.ROOMS}
    assert rooms == {"tasks/dpo/model", "tasks/dpo/scoring"}
    scorer = ROOT / "tasks/dpo/scoring/scorer.py"
    found: set[Path] = set()
    to_visit = [scorer, ROOT / "tasks/dpo/model/base_loading.py", ROOT / "tasks/dpo/model/adapter_loading.py"]
    while to_visit:
        path = to_visit.pop()
        if path.is_relative_to(ROOT / "tasks/dpo") and path.name != "__init__.py" and path not in found:
            found.add(path)
            to_visit += closure.used_by(path, ROOT)
    assert {path.parent.relative_to(ROOT).as_posix() for path in found} <= rooms, (
        "what scores imports these rooms alone"
    )


def test_precision_code_and_libraries_are_told_apart(monkeypatch: pytest.MonkeyPatch):
    on_cpu = compute_identity("cpu", "float32")
    assert on_cpu == compute_identity("cpu", "float32")
    assert on_cpu.startswith("float32 on cpu; code ")
    assert compute_identity("cuda", "bfloat16").startswith("bfloat16 on cuda; code ")
    monkeypatch.setattr(row_identity, "ROOMS", row_identity.ROOMS[:-1])
    assert compute_identity("cpu", "float32") != on_cpu
    monkeypatch.undo()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0")
    assert compute_identity("cpu", "float32") != on_cpu
