"""Makes many small segments of a row store into one, and checks every byte."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np

from tasks.core.errors import ArtifactError, StorageError
from tasks.core.files import sha256_file
from tasks.core.ragged import Counts
from tasks.rowstore import segment as segments
from tasks.rowstore.row_store import RowStore
from tasks.rowstore.segment import Block, Segment

SMALL_BYTES = 1 << 27
_STALE_SECONDS = 86_400


def compact(store: RowStore) -> tuple[int, int]:
    """Make the small segments of a store into one, each row once, and return how many they were, with how many rows.

    The rows are written before anything is removed, so this may run beside readers and writers. A damaged segment is
    named and left as it is. Drafts that a killed process left a day ago or earlier are removed.

    Raises:
        OSError: The disk is full, or refuses; the store is as it was.
        StorageError: The bucket refuses, or another `compact` removed a segment that this one reads.
        NetworkError: The bucket does not answer.
    """
    names = store.names()
    for draft in store.folder.glob(".*.draft"):
        with contextlib.suppress(FileNotFoundError):
            if draft.stat().st_mtime < time.time() - _STALE_SECONDS:
                draft.unlink()

    try:
        small = [name for name in names if (store.folder / name).stat().st_size <= SMALL_BYTES]
        whole = [store.segment(name) for name in small if _is_whole(store, name)]
        if len(whole) < 2:
            return 0, 0
        rows = _first_rows(whole)
        merged = store.write(_blocks(whole, rows))
    except FileNotFoundError as error:
        raise StorageError(f"{error.filename} was removed meanwhile", "let one `compact` run at a time") from None

    for segment in whole:
        if segment.path.name != merged:
            store.remove(segment.path.name)
    return len(whole), sum(map(len, rows))


def verify(store: RowStore) -> tuple[int, int]:
    """Check every byte, warn of damaged segments, and return how many segments there are and how many are damaged."""
    names = set(store.names())
    for name in sorted(names):
        with contextlib.suppress(FileNotFoundError):  # a `compact` beside this one
            _is_whole(store, name)

    damaged = {name for name in store.refused if segments.NAME.fullmatch(name)}
    return len(names | damaged), len(damaged)


def _is_whole(store: RowStore, name: str) -> bool:
    """Refuse a segment that is damaged or of another kind, and return False then."""
    path = store.folder / name
    try:
        if sha256_file(path) + segments.SUFFIX != name:
            raise segments.damaged(path, "its SHA-256 is not the one in its name")
        store.segment(name)
    except ArtifactError as error:
        store.refuse(name, error)
        return False
    return True


def _first_rows(whole: list[Segment]) -> list[Counts]:
    """Return which rows of each segment to keep, ascending: of a key that stands in several, the first one."""
    heads = np.concatenate([segment.heads for segment in whole])
    is_first = np.zeros(len(heads), bool)
    is_first[np.unique(heads, return_index=True)[1]] = True
    ends = np.cumsum([len(segment.heads) for segment in whole])
    return [np.sort(segment.rows[kept]) for segment, kept in zip(whole, np.split(is_first, ends[:-1]), strict=True)]


def _blocks(whole: list[Segment], rows: list[Counts]) -> Iterator[Block]:
    """Yield the chosen rows of each segment, joined to blocks of about a row group."""
    waiting: list[Block] = []
    for segment, chosen in zip(whole, rows, strict=True):
        for places, keys, flat in segment.read(chosen):
            waiting.append((keys, segment.lengths[chosen[places]], flat))
            if sum(len(values) for _, _, values in waiting) >= segments.GROUP_VALUES:
                yield _joined(waiting)
                waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(blocks: list[Block]) -> Block:
    keys, lengths, flat = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return keys, lengths, flat
