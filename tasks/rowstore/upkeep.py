"""What a person does to a row store now and then: make many small segments into one, and check every byte."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np

from tasks.core.errors import ArtifactError, StorageError
from tasks.core.ragged import Counts
from tasks.rowstore import segment as segments
from tasks.rowstore.row_store import RowStore
from tasks.rowstore.segment import Block, Segment


@dataclasses.dataclass(frozen=True)
class Compaction:
    """What was merged.

    Attributes:
        merged: How many segments were made into one; 0 where there was nothing to do.
        rows: How many distinct rows that one holds.
    """

    merged: int
    rows: int


def compact(store: RowStore) -> Compaction:
    """Make the small segments of a store into one, each row once, and remove them.

    The rows are written before anything is removed, and a reader whose segment is gone lists again: this may run
    beside readers and writers. Of two that run at once, one may stop with an error. A damaged segment is named and
    left as it is.

    Raises:
        OSError: The disk is full, or refuses; the store is as it was.
        StorageError: The bucket refuses; or another `compact` removed a segment that this one reads.
        NetworkError: The bucket does not answer.
    """
    names = store.names()
    if store.folder.is_dir():
        segments.sweep_drafts(store.folder)
    try:
        whole = [store.segment(name) for name in store.small(names) if not _is_damaged(store, name)]
        if len(whole) < 2:
            return Compaction(0, 0)
        rows = _first_rows(whole)
        merged = store.write(_blocks(whole, rows))
    except FileNotFoundError as error:
        raise StorageError(f"{error.filename} was removed meanwhile", "let one `compact` run at a time") from None

    for segment in whole:
        if segment.path.name != merged:
            store.remove(segment.path.name)
    return Compaction(len(whole), sum(map(len, rows)))


def verify(store: RowStore) -> tuple[int, int]:
    """Compare the bytes of every segment with its name; warn of each that is damaged.

    Returns:
        How many segments there are, and how many of them are damaged.
    """
    names = set(store.names())
    for name in sorted(names):
        with contextlib.suppress(FileNotFoundError):  # a `compact` beside this one
            _is_damaged(store, name)

    damaged = {name for name in store.refused if segments.is_segment_name(name)}
    return len(names | damaged), len(damaged)


def _is_damaged(store: RowStore, name: str) -> bool:
    """Tell whether a segment is damaged or of another kind, and refuse it then.

    Raises:
        FileNotFoundError: It is gone.
    """
    try:
        segments.check_bytes(store.folder / name)
        store.segment(name)
    except ArtifactError as error:
        store.refuse(name, error)
        return True
    return False


def _first_rows(merged: list[Segment]) -> list[Counts]:
    """Return which rows of each segment to keep, ascending: of a key that stands in several, the first one."""
    heads = np.concatenate([segment.heads for segment in merged])
    files = np.repeat(np.arange(len(merged)), [len(segment.heads) for segment in merged])
    rows = np.concatenate([segment.rows for segment in merged])

    order = np.lexsort((rows, files, heads))
    is_first = np.ones(len(order), bool)
    is_first[1:] = heads[order][1:] != heads[order][:-1]
    kept = order[is_first]
    return [np.sort(rows[kept[files[kept] == number]]) for number in range(len(merged))]


def _blocks(merged: list[Segment], rows: list[Counts]) -> Iterator[Block]:
    """Yield the chosen rows of each segment, joined to blocks of about a row group."""
    waiting: list[Block] = []
    values = 0
    for segment, chosen in zip(merged, rows, strict=True):
        for places, keys, flat in segment.read(chosen):
            waiting.append((keys, segment.lengths[chosen[places]], flat))
            values += len(flat)
            if values >= segments.GROUP_VALUES:
                yield _joined(waiting)
                waiting, values = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(blocks: list[Block]) -> Block:
    keys, lengths, flat = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return keys, lengths, flat
