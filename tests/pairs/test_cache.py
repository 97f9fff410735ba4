"""The token cache: what is written is read, and nothing damaged is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.core.errors import ArtifactError
from tasks.core.files import atomic_folder, write_manifest
from tasks.pairs.tokens.token_cache import TokenPairs, TokenRow, TokenWriter, cache_path, open_tokens
from tests.conftest import ROOT


def row(*parts: list[int]) -> TokenRow:
    return TokenRow(*(np.array(part, dtype=np.int32) for part in parts))


ROWS = [row([1, 2], [3], [4, 5]), row([1], [6, 7], [8]), row([9, 9, 9], [1], [2])]
PAIRS = TokenPairs.of_rows(ROWS, ["a" * 16, "b" * 16, "c" * 16], ["d" * 16] * 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with atomic_folder(tmp_path / "tokens", {"stage": "encode"}) as draft, TokenWriter(draft, "train") as writer:
        writer.append(TokenPairs.of_rows(ROWS[:2], ["a" * 16, "b" * 16], ["d" * 16] * 2))
        writer.append(TokenPairs.of_rows([], [], []))
        writer.append(TokenPairs.of_rows(ROWS[2:], ["c" * 16], ["d" * 16]))
    return tmp_path / "tokens"


def test_what_was_written_in_batches_is_read_as_one(folder: Path) -> None:
    pairs = open_tokens(folder, "train")
    assert len(pairs) == 3
    assert pairs.starts.tolist() == [0, 5, 9]
    for i, expected in enumerate(ROWS):
        got = pairs.row(i)
        assert [part.tolist() for part in (got.prompt, got.chosen, got.rejected)] == [
            part.tolist() for part in (expected.prompt, expected.chosen, expected.rejected)
        ]
    assert pairs.pair_ids.tolist() == [b"a" * 16, b"b" * 16, b"c" * 16]
    assert pairs.digest() == PAIRS.digest()


@pytest.mark.parametrize(
    ("vocabulary", "kind"),
    [(10, np.uint8), (256, np.uint8), (257, np.uint16), (65_536, np.uint16), (65_537, np.int32), (151_665, np.int32)],
)
def test_ids_have_the_smallest_type_that_holds_the_vocabulary(tmp_path: Path, vocabulary: int, kind: type) -> None:
    last = vocabulary - 1
    pairs = TokenPairs.of_rows([row([last, 0], [3] * 500, [4, last])], ["a" * 16], ["d" * 16])
    folder = tmp_path / "tokens"
    with atomic_folder(folder, {"stage": "encode"}) as draft, TokenWriter(draft, "train", vocabulary) as writer:
        writer.append(pairs)
    stored = open_tokens(folder, "train")
    assert (stored.ids.dtype, type(stored.ids)) == (kind, np.memmap)
    assert cache_path(folder, "train", "ids").stat().st_size == 128 + 504 * stored.ids.itemsize
    assert stored.row(0).prompt.dtype == np.int32  # for whoever computes with it
    assert stored.row(0).prompt.tolist() == [last, 0]
    assert stored.row(0).rejected.tolist() == [4, last]
    assert (stored.digest(), stored.token_digest()) == (pairs.digest(), pairs.token_digest())


@pytest.mark.parametrize("wrong", [-1, 256, 257, 70_000])
def test_an_id_outside_the_vocabulary_is_never_written_as_another(tmp_path: Path, wrong: int) -> None:
    with (
        pytest.raises(ValueError, match="do not fit a vocabulary of 256"),
        TokenWriter(tmp_path, "train", 256) as writer,
    ):
        writer.append(TokenPairs.of_rows([row([1], [2], [wrong])], ["a" * 16], ["d" * 16]))


def test_a_digest_of_many_ids_does_not_depend_on_how_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    before = PAIRS.digest()
    monkeypatch.setattr("tasks.pairs.tokens.token_cache._HASHED_AT_ONCE", 4)
    assert PAIRS.digest() == before


def test_a_writer_keeps_no_batch_in_memory(tmp_path: Path) -> None:
    ids = np.zeros(1000, np.int32)
    with TokenWriter(tmp_path, "train") as writer:
        writer.append(TokenPairs.of_rows([TokenRow(ids[:500], ids[500:800], ids[800:])], ["a" * 16], ["d" * 16]))
        assert all(part.ids.base is None for part in writer._small)


def test_the_ids_are_memory_mapped(folder: Path) -> None:
    assert isinstance(open_tokens(folder, "train").ids, np.memmap)


def test_weights_and_margins_are_1_and_0_unless_given_and_come_back_from_disk(tmp_path: Path) -> None:
    assert PAIRS.weights.tolist() == [1, 1, 1]
    assert PAIRS.margins.tolist() == [0, 0, 0]
    weighted = TokenPairs.of_rows(ROWS[:2], ["a" * 16, "b" * 16], ["d" * 16] * 2, [0.5, 2], [-1, 0.25])
    with atomic_folder(tmp_path / "tokens", {"stage": "encode"}) as draft, TokenWriter(draft, "train") as writer:
        writer.append(weighted)
        writer.append(TokenPairs.of_rows(ROWS[2:], ["c" * 16], ["d" * 16]))
    pairs = open_tokens(tmp_path / "tokens", "train")
    assert (pairs.weights.dtype, pairs.margins.dtype) == (np.float32, np.float32)
    assert pairs.weights.tolist() == [0.5, 2, 1]
    assert pairs.margins.tolist() == [-1, 0.25, 0]


def test_what_a_logp_depends_on_is_ids_and_boundaries_and_not_weights_margins_or_names() -> None:
    weighted = TokenPairs.of_rows(ROWS, ["e" * 16] * 3, ["f" * 16] * 3, [1, 2, 3], [4, 5, 6])
    assert weighted.token_digest() == PAIRS.token_digest()
    shifted = TokenPairs.of_rows([row([1], [2, 3], [4, 5]), *ROWS[1:]], ["a" * 16] * 3, ["d" * 16] * 3)
    changed = TokenPairs.of_rows([row([1, 2], [3], [4, 6]), *ROWS[1:]], ["a" * 16] * 3, ["d" * 16] * 3)
    assert len({pairs.token_digest() for pairs in (PAIRS, shifted, changed)}) == 3


def test_a_row_that_is_not_there_is_an_index_error() -> None:
    assert PAIRS.row(-1).prompt.tolist() == [9, 9, 9]
    with pytest.raises(IndexError):
        PAIRS.row(3)


def test_the_digest_sees_ids_boundaries_identities_weights_and_margins() -> None:
    others = [
        TokenPairs.of_rows([row([1, 2], [3], [4, 6]), *ROWS[1:]], ["a" * 16, "b" * 16, "c" * 16], ["d" * 16] * 3),
        TokenPairs.of_rows([row([1], [2, 3], [4, 5]), *ROWS[1:]], ["a" * 16, "b" * 16, "c" * 16], ["d" * 16] * 3),
        TokenPairs.of_rows(ROWS, ["a" * 16, "b" * 16, "e" * 16], ["d" * 16] * 3),
        TokenPairs.of_rows(ROWS, ["a" * 16, "b" * 16, "c" * 16], ["d" * 16] * 3, weights=[1, 1, 2]),
        TokenPairs.of_rows(ROWS, ["a" * 16, "b" * 16, "c" * 16], ["d" * 16] * 3, margins=[0, 0, 1]),
        TokenPairs.concatenate([PAIRS, PAIRS]),
    ]
    assert len({PAIRS.digest(), *(other.digest() for other in others)}) == 7


def refusal(folder: Path, split: str = "train") -> str:
    with pytest.raises(ArtifactError) as caught:
        open_tokens(folder, split)
    assert "dvc repro encode" in str(caught.value)
    return str(caught.value)


def test_a_missing_folder_split_or_file_is_refused(folder: Path, tmp_path: Path) -> None:
    assert "is missing" in refusal(tmp_path / "nowhere")
    assert "holds no split `test`" in refusal(folder, "test")
    cache_path(folder, "train", "lengths").unlink()
    assert "train.lengths.npy is missing" in refusal(folder)


def test_a_cut_file_is_refused(folder: Path) -> None:
    path = cache_path(folder, "train", "ids")
    path.write_bytes(path.read_bytes()[:-4])
    assert "its manifest says" in refusal(folder)


def test_a_changed_token_is_refused(folder: Path) -> None:
    path = cache_path(folder, "train", "ids")
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert "train.ids.npy is corrupt" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "array", "told"),
    [
        ("lengths", np.array([[2, 1, 2], [1, 2, 1], [3, 1, 2]], dtype=np.int32), "lengths add up to 15 tokens"),
        ("lengths", np.array([[2, 1, 2], [1, 2, 1], [5, 0, 0]], dtype=np.int32), "an empty prompt or reply"),
        ("lengths", np.zeros((0, 3), dtype=np.int32), r"pair_ids are"),
        ("lengths", np.zeros((3, 2), dtype=np.int32), "shape"),
        ("ids", np.zeros(14, dtype=np.int64), "int64"),
        ("pair_ids", np.array([b"a"], dtype="S16"), "pair_ids"),
        ("weights", np.ones(2, dtype=np.float32), "weights are float32 of shape (2,), not float32 of (3,)"),
        ("margins", np.zeros(3), "margins are float64"),
        ("weights", np.array([1, 0, 1], dtype=np.float32), "a weight is not a finite number above 0"),
        ("margins", np.array([1, np.nan, 1], dtype=np.float32), "or a margin is not finite"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(folder: Path, name: str, array: np.ndarray, told: str) -> None:
    np.save(cache_path(folder, "train", name), array)
    write_manifest(folder, {"stage": "encode"})
    assert told in refusal(folder)


def test_a_file_that_is_no_array_is_refused(folder: Path) -> None:
    cache_path(folder, "train", "ids").write_bytes(b"rubbish")
    write_manifest(folder, {"stage": "encode"})
    assert "not a readable array" in refusal(folder)


def test_the_cache_needs_numpy_and_nothing_heavier() -> None:
    heavy = "('torch', 'transformers', 'pyarrow')"
    code = f"import sys, tasks.pairs.tokens.token_cache; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
