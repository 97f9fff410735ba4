"""What was once computed for a row, kept under the hash of all that it depends on: append-only, shared, a cache.

    runs/rows/reference/<sha256>.parquet    segments of one kind, in a folder
    s3://bucket/prefix/reference/...        the same segments as objects, fetched once

A row's key names its value, so nothing is ever changed: writers add segments whole, readers take the
segments that are there, and two that write the same row agree. Losing the store costs time, never a
result; a damaged segment is named and passed over. n is the number of keys or rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks.core import paths
from tasks.core.errors import ArtifactError, ConfigError
from tasks.core.files import sha256_bytes
from tasks.core.ragged import Counts, spans
from tasks.object_store.bucket import SCHEME, Bucket
from tasks.rowstore import segment as segments
from tasks.rowstore.segment import KEY_BYTES, Block, Keys, Segment, Values
from tasks.telemetry import log

DTYPES = {"reference": np.dtype(np.float32), "encode": np.dtype(np.int32)}
MOST_SEGMENTS = 64  # small ones; more are made into one
SMALL_BYTES = 1 << 27
_SECONDS_A_LISTING_HOLDS = 60.0
_PATIENCE_S = 20.0  # a read is tried so long while others compact, with pauses that grow
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.1
_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """What a store knows of n keys.

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


class RowStore:
    """Rows of one kind, in a folder. Use :meth:`open`, which knows S3 as well.

    Any number of processes may read, append and compact at once, on one machine or on a network disk.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind, self.dtype = folder, kind, DTYPES[kind]
        self._open: dict[str, Segment] = {}
        self._refused: set[str] = set()

    @classmethod
    def open(cls, location: str | Path, kind: str) -> RowStore:
        """Open the rows of a ``kind`` (`reference` or `encode`) at a folder or `s3://bucket/prefix`.

        Nothing need be there: the first append makes it.

        Raises:
            ConfigError: The location is an address that no store here can open.
        """
        if not str(location).startswith(SCHEME):
            if "://" in str(location):
                advice = "give a folder, as in runs/rows, or s3://bucket/prefix"
                raise ConfigError(f"`runtime.row_store` is {str(location)!r}", advice)
            return cls(Path(location) / kind, kind)
        bucket = Bucket(str(location))
        cache = paths.RUNS / "rows" / f"s3-{sha256_bytes(bucket.label.encode())[:16]}"
        return _BucketStore(bucket, cache / kind, kind)

    def get(self, keys: Keys) -> Found:
        """Look up ``keys`` (uint8 [n, 32]).

        Only the row groups that hold wanted rows are read, one at a time; beside the result it takes
        24 bytes for each row of the store.

        Raises:
            StorageError: The store cannot be read.
            NetworkError: The store does not answer.
        """
        _check_keys(keys)
        give_up_at, pause = time.monotonic() + _PATIENCE_S, _SHORTEST_PAUSE_S
        while time.monotonic() < give_up_at:
            try:
                return self._get(keys, self._segments())
            except _Changed:
                self._look_again()
            time.sleep(random.uniform(0.0, pause))  # others may compact in a rhythm
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        _log.warning("the row store %s changes too fast to be read: rows are computed anew", self.folder)
        return Found(np.zeros(len(keys), bool), np.zeros(len(keys), np.int64), np.zeros(0, self.dtype))

    def append(self, keys: Keys, flat: Values, lengths: Counts) -> None:
        """Add rows as one segment, which appears whole or not at all; rows that are there already do no harm.

        Args:
            keys: uint8 [n, 32].
            flat: The rows' values one after the other, float32 or int32 as the kind has it.
            lengths: int64 [n], values of each row.

        Raises:
            OSError: The disk is full, or refuses.
            StorageError: The bucket refuses.
            NetworkError: The bucket does not answer.
        """
        _check_keys(keys)
        lengths = np.asarray(lengths, np.int64)
        if flat.dtype != self.dtype or lengths.shape != (len(keys),) or int(lengths.sum()) != flat.size:
            told = f"{flat.dtype}{list(flat.shape)} with {len(lengths)} lengths that add up to {int(lengths.sum())}"
            raise ValueError(f"rows of `{self.kind}` are {self.dtype}, one length a key; got {len(keys)} keys, {told}")
        if not len(keys):
            return
        self._write(iter([(keys, lengths, flat)]))
        if len(small := self._small()) > MOST_SEGMENTS:
            self._compact(small)

    def _get(self, keys: Keys, found: list[Segment]) -> Found:
        """Look up ``keys`` in segments; the first one that has a key gives its row."""
        heads, count = segments.heads_of(keys), len(keys)
        owner, row, lengths = (np.full(count, -1, np.int64) for _ in range(3))
        for number, segment in enumerate(found):
            missing = np.flatnonzero(owner < 0)
            at = segment.find(heads[missing])
            missing, at = missing[at >= 0], at[at >= 0]
            owner[missing], row[missing], lengths[missing] = number, at, segment.lengths[at]
        mask = owner >= 0
        lengths[~mask] = 0
        starts = np.cumsum(lengths) - lengths
        flat = np.empty(int(lengths.sum()), self.dtype)
        for number in np.unique(owner[mask]):
            wanted = np.flatnonzero(owner == number)
            with self._reading(found[number]):
                for places, their_keys, values in found[number].read(row[wanted]):
                    own = wanted[places]
                    flat[spans(starts[own], lengths[own])] = values
                    mask[own] = (their_keys == keys[own]).all(axis=1)  # eight bytes alike are not all of them
        if (owner >= 0).sum() != mask.sum():
            flat = flat[spans(starts[mask], lengths[mask])]
            lengths[~mask] = 0
        return Found(mask, lengths, flat)

    def _segments(self) -> list[Segment]:
        """Open the segments that are there, in the order of their names; name what is none and pass it over."""
        names = self._names()
        for gone in self._open.keys() - set(names):
            del self._open[gone]
        for name in names:
            if name in self._open or name in self._refused:
                continue
            try:
                self._open[name] = Segment.open(self.folder / name, self.kind, self.dtype)
            except FileNotFoundError:
                raise _Changed from None
            except ArtifactError as error:
                self._refuse(name, error)
        return [self._open[name] for name in names if name in self._open]

    def _names(self) -> list[str]:
        """Return the names of the segments that are there, sorted."""
        if not self.folder.is_dir():
            return []
        names = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))
        for name in [name for name in names if not segments.is_segment_name(name) and name not in self._refused]:
            self._refuse(name, f"{self.folder / name} is no segment of a row store — take it out of there")
        return [name for name in names if segments.is_segment_name(name)]

    def _look_again(self) -> None:
        """Trust no list of the segments that was made before."""

    def _refuse(self, name: str, why: object) -> None:
        self._refused.add(name)
        _log.warning("passed over: %s", why)

    @contextlib.contextmanager
    def _reading(self, segment: Segment) -> Iterator[None]:
        """Start again without a segment that was compacted away or damaged since it was opened."""
        try:
            yield
        except FileNotFoundError:
            raise _Changed from None
        except ArtifactError as error:
            self._open.pop(segment.path.name, None)
            self._refuse(segment.path.name, error)
            raise _Changed from None

    def _write(self, blocks: Iterator[Block]) -> str:
        """Write one segment and return its name."""
        draft = segments.write_draft(self.folder, self.kind, self.dtype, blocks)
        try:
            segments.sweep_drafts(self.folder)
            name = segments.name_of(draft)
            self._publish(draft, name)
        finally:
            draft.unlink(missing_ok=True)
        self._refused.discard(name)  # what was damaged is whole again
        return name

    def _publish(self, draft: Path, name: str) -> None:
        segments.publish(draft, name)

    def _small(self) -> list[str]:
        """Return the names of the segments that are worth being made into one."""
        sizes = {}
        for name in self._names():
            with contextlib.suppress(FileNotFoundError), segments.stale_is_gone():
                sizes[name] = (self.folder / name).stat().st_size
        return [name for name, size in sizes.items() if size <= SMALL_BYTES and name not in self._refused]

    def _compact(self, names: list[str]) -> None:
        """Make small segments into one, then remove them.

        Whoever else compacts at the same time writes these rows as well before removing anything, and a
        reader whose segment is gone looks again, so nobody has to wait for anybody.
        """
        with contextlib.suppress(_Changed):
            merged = [segment for segment in self._segments() if segment.path.name in names]
            if len(merged) < 2:
                return
            name = self._write(self._distinct(merged))
            for segment in merged:
                if segment.path.name != name:
                    self._remove(segment.path.name)

    def _distinct(self, merged: list[Segment]) -> Iterator[Block]:
        """Yield the rows of segments, each key's first one only."""
        heads = np.concatenate([segment.heads for segment in merged])
        files = np.repeat(np.arange(len(merged)), [len(segment.heads) for segment in merged])
        rows = np.concatenate([segment.rows for segment in merged])
        order = np.lexsort((rows, files, heads))
        first = np.ones(len(order), bool)
        first[1:] = heads[order][1:] != heads[order][:-1]
        kept = order[first]
        for number, segment in enumerate(merged):
            own = np.sort(rows[kept[files[kept] == number]])
            with self._reading(segment):
                for places, keys, flat in segment.read(own):
                    yield keys, segment.lengths[own[places]], flat

    def _remove(self, name: str) -> None:
        segments.remove(self.folder / name)
        self._open.pop(name, None)


class _BucketStore(RowStore):
    """Rows in a bucket; its segments are fetched into a folder of this machine once."""

    def __init__(self, bucket: Bucket, folder: Path, kind: str) -> None:
        super().__init__(folder, kind)
        self._bucket = bucket
        self._listed: list[str] = []
        self._list_anew_at = 0.0

    def _names(self) -> list[str]:
        """Return the names of the segments in the bucket, as of a minute ago or less."""
        if time.monotonic() >= self._list_anew_at:
            self._listed = self._fetch_new()
            self._list_anew_at = time.monotonic() + _SECONDS_A_LISTING_HOLDS
        return self._listed

    def _look_again(self) -> None:
        self._list_anew_at = 0.0

    def _fetch_new(self) -> list[str]:
        """Bring the folder in line with the bucket: fetch what is new, drop what was compacted away."""
        remote = [name for name in sorted(self._bucket.names(self.kind)) if segments.is_segment_name(name)]
        self.folder.mkdir(parents=True, exist_ok=True)
        local = {path.name for path in self.folder.iterdir() if segments.is_segment_name(path.name)}
        for name in sorted(local - set(remote)):
            segments.remove(self.folder / name)
        missing = [name for name in remote if name not in local and name not in self._refused]
        for name in log.progress(missing, "fetching rows", unit="segment") if len(missing) > 1 else missing:
            self._fetch(name)
        return [name for name in remote if self._is_here(name)]

    def _is_here(self, name: str) -> bool:
        with contextlib.suppress(FileNotFoundError), segments.stale_is_gone():
            return (self.folder / name).is_file()
        return False

    def _fetch(self, name: str) -> None:
        draft = segments.new_draft(self.folder)
        try:
            if self._bucket.fetch(f"{self.kind}/{name}", draft):
                segments.publish(draft, name)
        finally:
            draft.unlink(missing_ok=True)

    def _publish(self, draft: Path, name: str) -> None:
        self._bucket.store(f"{self.kind}/{name}", draft)
        super()._publish(draft, name)
        self._look_again()

    def _remove(self, name: str) -> None:
        self._bucket.remove(f"{self.kind}/{name}")
        super()._remove(name)
        self._look_again()


class _Changed(Exception):
    """A segment that was listed is not there any more, or is not what it was."""


def _check_keys(keys: Keys) -> None:
    if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != KEY_BYTES:
        raise ValueError(f"keys are {keys.dtype}{list(keys.shape)}, not uint8[n, {KEY_BYTES}]")
