"""Blocks of encoded rows: a known block gives the bytes that its rows would give again."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.core.files import atomic_folder, sha256_file
from tasks.pairs.encoding import token_splits
from tasks.pairs.encoding.encoder import EncodeConfig, PairEncoder
from tasks.pairs.encoding.recall import RecallingEncoder
from tasks.pairs.encoding.token_splits import encode_splits
from tasks.pairs.record.pair import Pair
from tasks.pairs.record.pair_columns import stored_row_groups
from tasks.pairs.record.parquet import PairWriter
from tasks.rowstore.row_store import RowStore
from tests.pairs.samples import folder_bytes
from tests.pairs.test_boundary import random_pairs
from tests.pairs.test_recall import ODD, SHORT

ROWS = [*random_pairs(11, 60), *ODD, *random_pairs(11, 5)]  # the last ones ask again what the first ones do


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_splits, "stored_row_groups", lambda path: stored_row_groups(path, 8))


def write_pairs(folder: Path, rows: list[Pair], split: str, size: int = 20) -> None:
    (folder / f"{split}.parquet").mkdir(parents=True)
    for begin in range(0, len(rows), size):
        with PairWriter(folder / f"{split}.parquet/{begin // size:05}.parquet", batch=4) as writer:
            for row in rows[begin : begin + size]:
                writer.append(row)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        write_pairs(tmp_path / "pairs", ROWS, split)
    return tmp_path / "pairs"


def encode(
    pairs: Path, tokens: Path, load: Any, rows: RowStore | None, identity: str = "x"
) -> tuple[dict[str, bytes], list[Any], RecallingEncoder]:
    """What is written, the tallies and the number of prompts, and the encoder."""
    encoder = RecallingEncoder(load, identity, rows)
    digests = {path.relative_to(pairs).as_posix(): sha256_file(path) for path in pairs.glob("*.parquet/*.parquet")}
    with atomic_folder(tokens, {}) as draft:
        tallies, prompts = encode_splits(pairs, draft, encoder, digests)
        encoder.flush()
    return folder_bytes(tokens), [*(tally.metrics() for tally in tallies.values()), prompts], encoder


@pytest.fixture
def load(stories: Any) -> Any:
    return lambda: PairEncoder(stories, SHORT)


def forget(*_: Any) -> None:
    pytest.fail("a row was looked up")


def test_known_blocks_some_and_none_give_the_same_bytes(
    pairs: Path, tmp_path: Path, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = RowStore.open(tmp_path / "rows", "encode")
    *without, _ = encode(pairs, tmp_path / "tokens", load, None)
    *cold, first = encode(pairs, tmp_path / "tokens", load, rows)
    blocks = sorted((tmp_path / "rows/blocks").iterdir())
    assert len(blocks) == 2 * 10
    for path in blocks[::3]:
        path.unlink()
    *some, _ = encode(pairs, tmp_path / "tokens", load, rows)
    assert sorted((tmp_path / "rows/blocks").iterdir()) == blocks
    monkeypatch.setattr(RecallingEncoder, "encode", forget)
    *every, last = encode(pairs, tmp_path / "tokens", load, rows)
    assert without == cold == some == every
    assert (last.known, last.new) == (first.known + first.new, 0)
    assert len(cold[0]["dropped.jsonl"].splitlines()) == 14


def test_another_encoder_another_split_and_other_pairs_have_other_blocks(
    pairs: Path, tmp_path: Path, stories: Any, load: Any
) -> None:
    rows = RowStore.open(tmp_path / "rows", "encode")
    before, _, _ = encode(pairs, tmp_path / "tokens", load, rows)
    longer, _, encoder = encode(
        pairs, tmp_path / "tokens", lambda: PairEncoder(stories, EncodeConfig()), rows, identity="y"
    )
    assert encoder.known == 0
    assert longer["train.ids.npy"] != before["train.ids.npy"]

    other = tmp_path / "other"
    write_pairs(other, ROWS[1:], "train")
    write_pairs(other, ROWS[:40], "test")
    warm = encode(other, tmp_path / "tokens", load, rows)[0]
    assert warm == encode(other, tmp_path / "tokens", load, None)[0]


@pytest.mark.parametrize("damage", [b"", b"x" * 50, None])
def test_a_damaged_block_is_made_again(pairs: Path, tmp_path: Path, load: Any, damage: bytes | None) -> None:
    rows = RowStore.open(tmp_path / "rows", "encode")
    before, _, _ = encode(pairs, tmp_path / "tokens", load, rows)
    files = sorted((tmp_path / "rows/blocks").iterdir())
    whole = [path.read_bytes() for path in files]
    for path, data in zip(files, whole, strict=True):
        place = 60
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :] if damage is None else damage)
    assert encode(pairs, tmp_path / "tokens", load, rows)[0] == before
    assert [path.read_bytes() for path in files] == whole


def test_a_block_comes_back_as_it_was(pairs: Path, tmp_path: Path, load: Any) -> None:
    encoder = RecallingEncoder(load, "x", RowStore.open(tmp_path / "rows", "encode"))
    (groups, *_) = stored_row_groups(pairs / "test.parquet", 100)
    block = token_splits._encode_block(groups.columns(), "test", encoder)
    encoder.blocks.keep("a", block)
    again = encoder.blocks.take("a")
    assert again is not None
    assert again.tokens.digest() == block.tokens.digest()
    assert (again.rows, again.dropped, again.lines) == (block.rows, block.dropped, block.lines)
    assert np.array_equal(again.prompts, block.prompts)
    assert again.tally.metrics() == block.tally.metrics()
    assert encoder.blocks.take("b") is None


def test_blocks_that_no_run_used_for_a_day_are_removed(pairs: Path, tmp_path: Path, load: Any) -> None:
    rows, folder = RowStore.open(tmp_path / "rows", "encode"), tmp_path / "rows/blocks"
    encode(pairs, tmp_path / "tokens", load, rows)
    used = set(folder.iterdir())
    for name in ("old.block", "new.block"):
        (folder / name).write_bytes(b"")
    for path in [*used, folder / "old.block"]:
        os.utime(path, (time.time() - 90000,) * 2)
    encode(pairs, tmp_path / "tokens", load, rows)
    assert set(folder.iterdir()) == used | {folder / "new.block"}
