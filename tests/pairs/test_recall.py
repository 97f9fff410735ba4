"""Rows from the store are what the tokenizer would give again, and only what it would."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.core import base_model, ragged
from tasks.pairs.encoding.encoder import EncodeConfig, EncodedPair, EncoderFacts, PairEncoder
from tasks.pairs.encoding.recall import RecallingEncoder, encoding_identity
from tasks.pairs.encoding.rowcode import joined, pack, unpack
from tasks.pairs.record.pair import Pair
from tasks.pairs.record.pair_columns import stored_columns
from tasks.pairs.record.parquet import PairWriter
from tasks.rowstore.row_store import RowStore
from tests.pairs.samples import chat, pair
from tests.pairs.test_boundary import random_pairs

SHORT = EncodeConfig(max_prompt_tokens=6, max_completion_tokens=5)
FILES = {"tokenizer.json": "1" * 64, "tokenizer_config.json": "2" * 64}
ODD = [
    pair("Once", " upon</s>a", " more"),  # a reply that stops generation
    pair("Once", " ", " more"),  # an empty reply
    pair("Once", " a b c d e f g h", " a b c d e f g i"),  # the same once cut
]


def facts_of(encoded: EncodedPair) -> tuple[Any, ...]:
    """An encoded pair as values that can be compared."""
    made = encoded.made
    tokens = (made.row.prompt.tolist(), made.row.chosen.tolist(), made.row.rejected.tolist()) if made else ()
    more = (made.cut, made.is_shifted) if made else (encoded.reason, encoded.detail)
    return (encoded.pair, encoded.prompt.tolist(), encoded.is_rerendered, *tokens, *more)


def encode(encoder: RecallingEncoder, pairs: list[Pair]) -> list[EncodedPair]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.parquet"
        with PairWriter(path) as writer:
            for pair in pairs:
                writer.append(pair)
        (rows,) = map(encoder.encode, stored_columns(path))
    return [unpack(pair, rows.values(i)) for i, pair in enumerate(pairs)]


def never() -> PairEncoder:
    pytest.fail("the tokenizer was asked for what the store has")


@pytest.fixture
def rows(tmp_path: Path) -> RowStore:
    return RowStore.open(tmp_path / "rows", "encode")


@pytest.fixture
def pairs() -> list[Pair]:
    return [*random_pairs(11, 60), *ODD]


def test_a_row_comes_back_as_it_was_whatever_became_of_the_pair(stories: Any) -> None:
    encoder = PairEncoder(stories, SHORT)
    kinds: set[Any] = set()
    for encoded in encoder.encode([*random_pairs(20240607, 400), *ODD]):
        values = pack(encoded)
        assert (values.dtype, values.ndim) == (np.int32, 1)
        assert facts_of(unpack(encoded.pair, values)) == facts_of(encoded)
        assert encoded.made is None or joined([values]).prompt(0).tolist() == encoded.prompt.tolist()
        kinds |= {encoded.reason} if encoded.made is None else {encoded.made.cut, encoded.made.is_shifted}
    assert {"eos_in_reply", "empty_reply", "identical_completions", True, False, (True, True, True)} <= kinds


def test_that_a_template_renders_the_prompt_differently_comes_back(qwen: Any) -> None:
    jinja = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    encoder = PairEncoder(type(qwen).from_pretrained(qwen.name_or_path, chat_template=jinja), EncodeConfig())
    (encoded,) = encoder.encode([pair(chat("Hi"))])
    assert encoded.is_rerendered
    assert unpack(encoded.pair, pack(encoded)).is_rerendered


@pytest.mark.parametrize("change", [lambda row: row[:3], lambda row: row[:-1], lambda row: [*row, 7]])
def test_a_row_that_is_none_is_refused(stories: Any, change: Any) -> None:
    (encoded,) = PairEncoder(stories, EncodeConfig()).encode([pair("Once upon", " a time", " more")])
    assert encoded.made is not None
    assert not encoded.made.is_shifted
    with pytest.raises(ValueError, match=r"no row|tokens are not"):
        unpack(encoded.pair, np.array(change(pack(encoded)), dtype=np.int32))


def test_cold_warm_half_warm_and_storeless_give_the_same(stories: Any, rows: RowStore, pairs: list[Pair]) -> None:
    def load() -> PairEncoder:
        return PairEncoder(stories, SHORT)

    expected = [facts_of(each) for each in load().encode(pairs)]
    storeless = RecallingEncoder(load, "x", None)
    assert [facts_of(each) for each in encode(storeless, pairs)] == expected
    half = RecallingEncoder(load, "x", rows)
    encode(half, pairs[::2])
    half.flush()
    rest = RecallingEncoder(load, "x", rows)
    assert [facts_of(each) for each in encode(rest, pairs)] == expected
    assert (rest.known, rest.new) == (32, 31)
    rest.flush()
    warm = RecallingEncoder(never, "x", rows)
    assert [facts_of(each) for each in encode(warm, pairs)] == expected
    assert (warm.known, warm.new) == (63, 0)


def test_what_an_encoder_says_of_itself_is_known_too(minimind: Any, rows: RowStore) -> None:
    first = RecallingEncoder(lambda: PairEncoder(minimind, EncodeConfig()), "x", rows)
    facts = first.facts
    expected = EncoderFacts("auto", minimind.chat_template, (2,), minimind.model_max_length, False, vocabulary=6400)
    assert facts == expected
    first.flush()
    assert RecallingEncoder(never, "x", rows).facts == facts


def test_the_key_is_the_text_and_not_what_else_a_row_says(stories: Any, rows: RowStore) -> None:
    def load() -> PairEncoder:
        return PairEncoder(stories, EncodeConfig())

    asked = pair("Once upon", " a time", " more")
    first = RecallingEncoder(load, "x", rows)
    encode(first, [asked])
    first.flush()
    same = dataclasses.replace(asked, slice="other", source="elsewhere:7", weight=2.0, margin=1.0)
    (known,) = encode(RecallingEncoder(never, "x", rows), [same])
    assert known.pair is same
    others = [
        dataclasses.replace(asked, prompt="Once"),
        dataclasses.replace(asked, chosen=" a tree"),
        dataclasses.replace(asked, rejected=" less"),
        dataclasses.replace(asked, prompt=chat("Once upon")),
        dataclasses.replace(asked, chosen=asked.rejected, rejected=asked.chosen),
    ]
    again = RecallingEncoder(lambda: PairEncoder(stories, EncodeConfig(chat_template="plain")), "x", rows)
    encode(again, others)
    assert (again.known, again.new) == (0, 5)
    other = RecallingEncoder(load, "y", rows)
    encode(other, [asked])
    assert (other.known, other.new) == (0, 1)


def test_each_thing_that_makes_tokens_makes_the_identity(tmp_path: Path) -> None:
    (tmp_path / "a.jinja").write_text("{{ messages }}")
    (tmp_path / "b.jinja").write_text("{{ messages }}!")
    changes: list[dict[str, Any]] = [
        {},
        {"max_prompt_tokens": 511},
        {"max_completion_tokens": 511},
        {"truncation": "drop"},
        {"chat_template": "plain"},
        {"chat_template": str(tmp_path / "a.jinja")},
        {"chat_template": str(tmp_path / "b.jinja")},
        {"text_as": "chat"},
    ]
    found = [encoding_identity(FILES, [2], EncodeConfig(**change)) for change in changes]
    found += [encoding_identity(files, [2], EncodeConfig()) for files in ({}, {**FILES, "tokenizer.json": "3" * 64})]
    found.append(encoding_identity(FILES, [2, 5], EncodeConfig()))
    assert len(set(found)) == len(changes) + 3


@pytest.mark.parametrize("module", [base_model, ragged])
def test_an_edit_of_the_code_that_makes_a_row_makes_another_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any
) -> None:
    before = encoding_identity(FILES, [], SHORT)
    edited = tmp_path / "edited.py"
    edited.write_text(Path(module.__file__).read_text() + "# edited\n")
    monkeypatch.setattr(module, "__file__", str(edited))
    assert encoding_identity(FILES, [], SHORT) != before


def test_a_template_file_counts_by_its_text_and_not_by_its_place(tmp_path: Path) -> None:
    for name in ("a.jinja", "b.jinja"):
        (tmp_path / name).write_text("{{ messages }}")
    first, second = (
        encoding_identity(FILES, [], EncodeConfig(chat_template=str(tmp_path / name)))
        for name in ("a.jinja", "b.jinja")
    )
    assert first == second


def test_a_damaged_store_costs_time_and_no_result(stories: Any, rows: RowStore, pairs: list[Pair]) -> None:
    def load() -> PairEncoder:
        return PairEncoder(stories, SHORT)

    first = RecallingEncoder(load, "x", rows)
    expected = [facts_of(each) for each in encode(first, pairs)]
    first.flush()
    (segment,) = rows.folder.iterdir()
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 0xFF
    segment.write_bytes(data)
    again = RecallingEncoder(load, "x", RowStore.open(rows.folder.parent, "encode"))
    assert [facts_of(each) for each in encode(again, pairs)] == expected
    assert (again.known, again.new) == (0, 63)
    again.flush()
    healed = RecallingEncoder(never, "x", RowStore.open(rows.folder.parent, "encode"))
    assert [facts_of(each) for each in encode(healed, pairs)] == expected
