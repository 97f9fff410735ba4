"""Rows that were computed once, kept under the hash of all that they depend on: append-only, shared, a cache.

    runs/rows/reference/<sha256>.parquet    segments of one kind, in a folder
    s3://bucket/prefix/reference/...        the same segments as objects, each fetched once

A row's key names its value, so a row never changes: writers add whole segments, readers take the segments that
are there, and two writers of one row agree. To lose the store, or a segment of it, costs time and never a result.
`python -m tasks.rowstore` compacts and verifies a store. n is the number of keys or rows.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tasks.core import paths
from tasks.core.errors import ArtifactError, ConfigError
from tasks.core.files import sha256_bytes
from tasks.core.ragged import Counts
from tasks.object_store.bucket import SCHEME, Bucket
from tasks.rowstore import segment as segments
from tasks.rowstore.segment import KEY_BYTES, Block, Keys, Segment, Values
from tasks.rowstore.stored_rows import Gathering, StoredRows
from tasks.telemetry import log

DTYPES = {"reference": np.dtype(np.float32), "encode": np.dtype(np.int32)}
MANY_SEGMENTS = 256  # to open one takes about a millisecond
SMALL_BYTES = 1 << 27
_SECONDS_A_LISTING_HOLDS = 60.0
_log = log.get_logger(__name__)


class RowStore:
    """Rows of one kind, in a folder. :meth:`open` knows S3 as well.

    Any number of processes may read and append at once, on one machine or on a network disk, and one may compact.

    Attributes:
        refused: Names of damaged segments and of foreign files, which are skipped.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind, self.dtype = folder, kind, DTYPES[kind]
        self._open: dict[str, Segment] = {}
        self.refused: set[str] = set()
        self._has_advised = False

    @classmethod
    def open(cls, location: str | Path, kind: str) -> RowStore:
        """Open the rows of a ``kind`` (`reference` or `encode`) at a folder or `s3://bucket/prefix`.

        The place may be empty or absent: the first append makes it.

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

    def get(self, keys: Keys) -> StoredRows:
        """Look up ``keys`` (uint8 [n, 32]).

        A damaged segment is skipped with one warning. Only the row groups that hold wanted rows are read, one
        at a time. The memory is twice that of the result, and 24 bytes for each row of the store.

        Raises:
            StorageError: The store cannot be read.
            NetworkError: The store does not answer.
        """
        _check_keys(keys)
        rows = Gathering(keys)
        if not self._read_into(rows):
            # `compact` merged a segment into another since it was listed: list once more
            self._forget_listing()
            self._read_into(rows)
        return rows.joined(self.dtype)

    def append(self, keys: Keys, flat: Values, lengths: Counts) -> None:
        """Add rows as one segment, which appears whole or not at all; a row may be there already.

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
            shapes = f"{flat.dtype}{list(flat.shape)} with {len(lengths)} lengths that add up to {int(lengths.sum())}"
            raise ValueError(
                f"rows of `{self.kind}` are {self.dtype}, one length a key; got {len(keys)} keys, {shapes}"
            )
        if len(keys):
            self.write([(keys, lengths, flat)])

    def names(self) -> list[str]:
        """Return the names of the segments that are there, sorted; warn once of any other file."""
        try:
            names = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []
        for name in names:
            if not segments.is_segment_name(name):
                self.refuse(name, f"{self.folder / name} is no segment of a row store — move it elsewhere")
        return [name for name in names if segments.is_segment_name(name)]

    def small(self, names: list[str]) -> list[str]:
        """Return those of ``names`` that `compact` merges: small and not damaged."""
        sizes = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                sizes[name] = (self.folder / name).stat().st_size
        return [name for name, size in sizes.items() if size <= SMALL_BYTES and name not in self.refused]

    def segment(self, name: str) -> Segment:
        """Open a segment, once.

        Raises:
            ArtifactError: It is damaged, or does not hold rows of this kind.
            FileNotFoundError: It is gone.
        """
        if name not in self._open:
            self._open[name] = Segment.open(self.folder / name, self.kind, self.dtype)
        return self._open[name]

    def write(self, blocks: Iterable[Block]) -> str:
        """Write one segment and return its name.

        Raises:
            OSError: The disk is full, or refuses.
            StorageError: The bucket refuses.
            NetworkError: The bucket does not answer.
        """
        draft = segments.write_draft(self.folder, self.kind, self.dtype, blocks)
        try:
            name = segments.name_of(draft)
            self._publish(draft, name)
        finally:
            draft.unlink(missing_ok=True)
        self.refused.discard(name)  # it replaces a damaged segment of that name
        return name

    def remove(self, name: str) -> None:
        """Remove a segment; another process may have removed it before."""
        (self.folder / name).unlink(missing_ok=True)
        self._open.pop(name, None)

    def refuse(self, name: str, why: object) -> None:
        """Skip a file of this store from now on, with one warning."""
        self._open.pop(name, None)
        if name not in self.refused:
            self.refused.add(name)
            _log.warning("skipped: %s", why)

    def _read_into(self, rows: Gathering) -> bool:
        """Read what the segments have of the wanted rows; False where a listed segment has vanished."""
        names = self.names()
        self._advise(names)
        for name in self._open.keys() - set(names):
            del self._open[name]

        has_all = True
        for name in names:
            if rows.is_complete():
                break
            if name in self.refused:
                continue
            try:
                rows.take_from(self.segment(name))
            except FileNotFoundError:
                self._open.pop(name, None)
                has_all = False
            except ArtifactError as error:
                self.refuse(name, error)
        return has_all

    def _advise(self, names: list[str]) -> None:
        """Recommend `compact`, once, where there are so many small segments that reading is slow."""
        if self._has_advised or len(names) < MANY_SEGMENTS or len(self.small(names)) < MANY_SEGMENTS:
            return
        self._has_advised = True
        text = "the row store has %d segments of `%s`: `python -m tasks.rowstore compact` makes it faster to read"
        _log.info(text, len(names), self.kind)

    def _forget_listing(self) -> None:
        """List the segments anew at the next read."""

    def _publish(self, draft: Path, name: str) -> None:
        segments.publish(draft, name)


class _BucketStore(RowStore):
    """Rows in a bucket; each segment is fetched into a folder of this machine once."""

    def __init__(self, bucket: Bucket, folder: Path, kind: str) -> None:
        super().__init__(folder, kind)
        self._bucket = bucket
        self._listed: list[str] = []
        self._list_anew_at = 0.0

    def names(self) -> list[str]:
        """Return the names of the segments in the bucket, as of a minute ago or less; fetch those that are new."""
        if time.monotonic() >= self._list_anew_at:
            self._listed = self._fetch_new()
            self._list_anew_at = time.monotonic() + _SECONDS_A_LISTING_HOLDS
        return self._listed

    def remove(self, name: str) -> None:
        """Remove a segment from the bucket and from this machine."""
        self._bucket.remove(f"{self.kind}/{name}")
        super().remove(name)
        self._forget_listing()

    def _forget_listing(self) -> None:
        self._list_anew_at = 0.0

    def _fetch_new(self) -> list[str]:
        """Fetch what is new in the bucket, and remove here what `compact` removed there."""
        remote = [name for name in sorted(self._bucket.names(self.kind)) if segments.is_segment_name(name)]
        self.folder.mkdir(parents=True, exist_ok=True)
        local = {path.name for path in self.folder.iterdir() if segments.is_segment_name(path.name)}
        for name in local - set(remote):
            (self.folder / name).unlink(missing_ok=True)

        missing = [name for name in remote if name not in local | self.refused]
        bar = log.bar("fetching rows", total=len(missing), unit="segment") if len(missing) > 1 else None
        for name in missing:
            self._fetch(name)
            if bar:
                bar.update()
        if bar:
            bar.close()
        return [name for name in remote if name not in self.refused]

    def _fetch(self, name: str) -> None:
        """Fetch a segment, and refuse one whose bytes are not those that it is named after."""
        draft = segments.new_draft(self.folder)
        try:
            if not self._bucket.fetch(f"{self.kind}/{name}", draft):
                return
            if segments.name_of(draft) == name:
                segments.publish(draft, name)
            else:
                self.refuse(name, f"{self._bucket.label}/{self.kind}/{name} is damaged — delete it")
        finally:
            draft.unlink(missing_ok=True)

    def _publish(self, draft: Path, name: str) -> None:
        self._bucket.store(f"{self.kind}/{name}", draft)
        super()._publish(draft, name)
        self._forget_listing()


def _check_keys(keys: Keys) -> None:
    if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != KEY_BYTES:
        raise ValueError(f"keys are {keys.dtype}{list(keys.shape)}, not uint8[n, {KEY_BYTES}]")
