"""What a store has of some keys, gathered from one segment after the other."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tasks.core.ragged import Counts, spans
from tasks.rowstore import segment as segments
from tasks.rowstore.segment import Keys, Segment, Values


@dataclasses.dataclass(frozen=True, eq=False)
class StoredRows:
    """What a store has of n keys.

    Attributes:
        mask: bool [n], whether there is a row.
        lengths: int64 [n], values of each row, 0 where there is none.
        flat: The values of the rows that there are, one after the other in the order of the keys.
    """

    mask: npt.NDArray[np.bool_]
    lengths: Counts
    flat: Values

    @cached_property
    def starts(self) -> Counts:
        """Where each row begins in ``flat``: int64 [n]."""
        starts: Counts = np.cumsum(self.lengths) - self.lengths
        return starts

    def values(self, i: int) -> Values:
        """Return the values of row ``i``, a view of one dimension.

        Raises:
            KeyError: The store has no such row.
        """
        if not self.mask[i]:
            raise KeyError(i)
        return self.flat[self.starts[i] : self.starts[i] + self.lengths[i]]


class Gathering:
    """The rows of some keys, gathered from one segment after the other; the first that has a key gives its row."""

    def __init__(self, keys: Keys) -> None:
        self._keys, self._heads = keys, segments.heads_of(keys)
        self._mask = np.zeros(len(keys), bool)
        self._lengths = np.zeros(len(keys), np.int64)
        self._parts: list[tuple[Counts, Values]] = []  # which keys, and their values one after the other

    def is_complete(self) -> bool:
        """Tell whether every key has its row."""
        return bool(self._mask.all())

    def take_from(self, segment: Segment) -> None:
        """Take the rows that are still missing and that ``segment`` has.

        Raises:
            ArtifactError: The segment is damaged; the row groups that were read before are taken.
            FileNotFoundError: It is gone.
        """
        missing = np.flatnonzero(~self._mask)
        at = segment.find(self._heads[missing])
        missing, at = missing[at >= 0], at[at >= 0]
        if not len(missing):
            return

        for places, keys, values in segment.read(at):
            owners, lengths = missing[places], segment.lengths[at[places]]
            is_same = (keys == self._keys[owners]).all(axis=1)  # eight equal bytes are not yet an equal key
            self._mask[owners] = is_same
            self._lengths[owners] = np.where(is_same, lengths, 0)
            begins = np.cumsum(lengths) - lengths
            self._parts.append((owners[is_same], values[spans(begins[is_same], lengths[is_same])]))

    def joined(self, dtype: np.dtype[np.generic]) -> StoredRows:
        """Return the rows in the order of the keys."""
        starts = np.cumsum(self._lengths) - self._lengths
        flat = np.empty(int(self._lengths.sum()), dtype)
        for owners, values in self._parts:
            flat[spans(starts[owners], self._lengths[owners])] = values
        return StoredRows(self._mask, self._lengths, flat)
