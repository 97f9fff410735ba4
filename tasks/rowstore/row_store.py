"""Rows that were computed once, kept under the hash of all that they depend on: append-only, shared, a cache.

    runs/rows/reference/<sha256>.parquet    segments of one kind, in a folder
    s3://bucket/prefix/reference/...        the same segments as objects, each fetched once

A row's key names its value, so a row never changes: writers add whole segments, readers take the segments that
are there, and two writers of one row agree. To lose the store, or a segment of it, costs time and never a result.
`python -m tasks.upkeep` compacts and verifies a store. n is the number of keys or rows.
"""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks.core import paths
from tasks.core.errors import ArtifactError, ConfigError
from tasks.core.files import sha256_bytes, sha256_file
from tasks.core.ragged import Counts, put, take
from tasks.object_store.bucket import SCHEME, Bucket
from tasks.rowstore import segment as segments
from tasks.rowstore.segment import KEY_BYTES, Block, Keys, Segment, Values
from tasks.telemetry import log

DTYPES = {
    "reference": np.dtype(np.float32),
    "encode": np.dtype(np.int32),
    "features": np.dtype(np.float32),  # of a reply, for the judge `own`
    "scores": np.dtype(np.float32),  # of an answer, by a reward model
}
MANY_SEGMENTS = 256  # to open one takes about a millisecond
_GONE = {errno.ENOENT, errno.ESTALE}  # removed on this machine, or by another one on a network disk
_log = log.get_logger(__name__)


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


class RowStore:
    """Rows of one kind, in a folder or in a bucket, whose segments are fetched into a folder at the first read.

    Any number of processes may read and append at once, on one machine or on a network disk, and one may compact.

    Attributes:
        refused: Names of damaged segments and of foreign files, which are skipped.
    """

    def __init__(self, folder: Path, kind: str, bucket: Bucket | None = None) -> None:
        self.folder, self.kind, self.dtype = folder, kind, DTYPES[kind]
        self._bucket, self._has_fetched = bucket, False
        self._segments: dict[str, Segment] = {}
        self.refused: set[str] = set()
        self._has_advised = False
        self._answering = ""  # the segment that had rows last: it is asked first, for rows come in order

    @classmethod
    def open(cls, location: str | Path, kind: str) -> RowStore:
        """Open the rows of a ``kind`` at a folder or `s3://bucket/prefix`, which the first append makes.

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
        return cls(cache / kind, kind, bucket)

    def get(self, keys: Keys) -> StoredRows:
        """Look up ``keys`` (uint8 [n, 32]); rows of one key are equal, whichever segment has them.

        A damaged segment is skipped with one warning. If `compact` removes segments meanwhile, their rows are read from
        the merged one. Only the row groups that hold wanted rows are read, one at a time. The memory is twice that of
        the result, and 24 bytes for each row of the store.

        Raises:
            OSError: The disk fails.
            StorageError, NetworkError: The bucket cannot be read, or does not answer.
        """
        _check_keys(keys)
        mask, lengths = np.zeros(len(keys), bool), np.zeros(len(keys), np.int64)
        parts: list[tuple[Counts, Values]] = []  # which keys, and their values one after the other

        tried: set[str] = set()
        while names := [name for name in self.names() if name not in tried]:  # again, for what was merged meanwhile
            if len(names) >= MANY_SEGMENTS and not self._has_advised:
                self._has_advised = True
                text = "the row store has %d segments of `%s`: `python -m tasks.upkeep compact` makes it faster to read"
                _log.info(text, len(names), self.kind)
            tried.update(names)
            for name in sorted(names, key=lambda name: name != self._answering):
                try:
                    for at, lengths_there, values in self._rows_in(name, keys, np.flatnonzero(~mask)):
                        mask[at], lengths[at], self._answering = True, lengths_there, name
                        parts.append((at, values))
                except ArtifactError as error:
                    self.refuse(name, error)
                except OSError as error:
                    if error.errno not in _GONE:
                        raise

        rows = StoredRows(mask, lengths, np.empty(int(lengths.sum()), self.dtype))
        for at, values in parts:
            put(rows.flat, rows.starts[at], lengths[at], values)
        return rows

    def append(self, keys: Keys, flat: Values, lengths: Counts) -> None:
        """Add rows as one segment, which appears whole or not at all; a row may be there already.

        Args:
            keys: uint8 [n, 32].
            flat: The rows' values one after the other, in the kind's dtype.
            lengths: int64 [n], values of each row.

        Raises:
            OSError: The disk is full, or refuses.
            StorageError, NetworkError: The bucket refuses, or does not answer.
        """
        _check_keys(keys)
        lengths = np.asarray(lengths, np.int64)
        if flat.dtype != self.dtype or lengths.shape != (len(keys),) or int(lengths.sum()) != flat.size:
            shapes = f"{len(keys)} keys, {flat.dtype}{list(flat.shape)} and lengths of {int(lengths.sum())} in all"
            raise ValueError(f"rows of `{self.kind}` are {self.dtype}, one length a key; got {shapes}")
        if len(keys):
            self.write([(keys, lengths, flat)])

    def names(self) -> list[str]:
        """Return the names of the segments that are there, sorted; warn once of any other file."""
        if self._bucket and not self._has_fetched:
            self._fetch_new(self._bucket)
            self._has_fetched = True
        files = self.folder.iterdir() if self.folder.is_dir() else ()
        names = sorted(path.name for path in files if not path.name.startswith("."))
        for name in names:
            if not segments.NAME.fullmatch(name):
                self.refuse(name, f"{self.folder / name} is no segment of a row store — move it elsewhere")
        return [name for name in names if name not in self.refused]

    def segment(self, name: str) -> Segment:
        """Open a segment, once; raise what :class:`Segment` raises."""
        if name not in self._segments:
            self._segments[name] = Segment(self.folder / name, self.kind, self.dtype)
        return self._segments[name]

    def write(self, blocks: Iterable[Block]) -> str:
        """Write one segment and return its name; raise what :meth:`append` raises."""
        with segments.draft_in(self.folder) as draft:
            segments.write_rows(draft, self.kind, self.dtype, blocks)
            name = sha256_file(draft) + segments.SUFFIX
            if self._bucket:
                self._bucket.store(f"{self.kind}/{name}", draft)
            draft.replace(self.folder / name)
            segments.sync_folder(self.folder)  # `compact` removes the segments whose rows this one has
        self.refused.discard(name)  # it replaces a damaged segment of that name
        return name

    def remove(self, name: str) -> None:
        """Remove a segment; another process may have removed it before."""
        if self._bucket:
            self._bucket.remove(f"{self.kind}/{name}")
        (self.folder / name).unlink(missing_ok=True)

    def refuse(self, name: str, why: object) -> None:
        """Skip a file of this store from now on, with one warning."""
        self._segments.pop(name, None)
        if name not in self.refused:
            self.refused.add(name)
            _log.warning("skipped: %s", why)

    def _rows_in(self, name: str, keys: Keys, wanted: Counts) -> Iterator[tuple[Counts, Counts, Values]]:
        """Yield which of the ``wanted`` keys a segment has, the lengths of their rows, and their values."""
        if not len(wanted):
            return
        segment = self.segment(name)
        at = segment.find(segments.heads_of(keys[wanted]))
        wanted, at = wanted[at >= 0], at[at >= 0]

        for places, keys_there, values in segment.read(at):
            is_same = (keys_there == keys[wanted[places]]).all(axis=1)  # eight equal bytes are not yet an equal key
            lengths = segment.lengths[at[places]]
            begins = np.cumsum(lengths) - lengths
            yield wanted[places][is_same], lengths[is_same], take(values, begins[is_same], lengths[is_same])

    def _fetch_new(self, bucket: Bucket, tried: frozenset[str] = frozenset()) -> None:
        """Fetch what is new in the bucket and was not ``tried``, and remove here what `compact` removed there."""
        there = {name for name in bucket.names(self.kind) if segments.NAME.fullmatch(name)}
        here = {path.name for path in self.folder.glob(f"*{segments.SUFFIX}") if segments.NAME.fullmatch(path.name)}
        for name in here - there:
            (self.folder / name).unlink(missing_ok=True)
        if not (missing := sorted(there - here - tried)):
            return

        is_gone = False
        with log.bar("fetching rows", total=len(missing), unit="segment") as bar:
            for name in missing:
                with segments.draft_in(self.folder) as draft:
                    is_there = bucket.fetch(f"{self.kind}/{name}", draft)
                    is_gone |= not is_there
                    if is_there and sha256_file(draft) + segments.SUFFIX == name:
                        draft.replace(self.folder / name)
                    elif is_there:
                        self.refuse(name, f"{bucket.label}/{self.kind}/{name} is damaged — delete it")
                bar.update()
        if is_gone:  # `compact` on another machine merged it meanwhile
            self._fetch_new(bucket, tried.union(missing))


def _check_keys(keys: Keys) -> None:
    if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != KEY_BYTES:
        raise ValueError(f"keys are {keys.dtype}{list(keys.shape)}, not uint8[n, {KEY_BYTES}]")
