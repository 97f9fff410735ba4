"""The pairs of a block of rows, in a file: made by any process, and used again by the next run.

A part is named by the hash of all that makes it: the rows' bytes, how they are read, and the code. So a run over
data that grew reads the new rows alone. Parts are a cache: to lose one costs time and never a result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pickle
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.cache_folder import remove_unused
from tasks.core.errors import StorageError
from tasks.core.files import code_digest, digest_of, naming_file
from tasks.core.versions import versions
from tasks.pairs.forms.groups import Entry, Groups
from tasks.pairs.forms.singles import Singles
from tasks.pairs.ingestion.counts import Counts
from tasks.pairs.ingestion.formats import rows_of
from tasks.pairs.ingestion.part_processes import PartProcesses
from tasks.pairs.ingestion.placement import Placement
from tasks.pairs.ingestion.row_taker import RowTaker
from tasks.pairs.ingestion.verdicts import LENGTHS
from tasks.pairs.raw.raw_row import Block
from tasks.pairs.record.pair import Pair
from tasks.pairs.record.parquet import PairWriter
from tasks.pairs.record.rejection import Rejection

# What stands behind the pairs' own columns: the ids as numbers, what decides on the side, and lengths in characters.
KEYS = (
    pa.field("prompt_key", pa.uint64(), nullable=False),
    pa.field("pair_key", pa.uint64(), nullable=False),
    pa.field("swapped_key", pa.uint64(), nullable=False),
    pa.field("split_key", pa.uint64(), nullable=False),
    pa.field("letters", pa.large_string(), nullable=False),
    pa.field("signature", pa.binary(), nullable=False),
    *(pa.field(f"{name}_length", pa.int64(), nullable=False) for name in LENGTHS),
)
_ROOMS = ("forms", "hygiene", "ingestion", "raw", "record")  # of tasks/pairs: their code makes a part
_LIBRARIES = ("orjson", "pyarrow", "rensa", "presidio-analyzer", "phonenumbers", "tldextract", "detect-secrets")
_OUTCOME = "outcome"  # the key of the file's metadata that holds counts and rejections
_LONGEST_OUTCOME = 1 << 24  # bytes; Arrow refuses to read metadata of 100 MB
_SUFFIX = ".parquet"
_SMALL = 1 << 16  # bytes of a block; to hand a smaller one to another process takes as long as to read it
_MOST_PAIRS = 1 << 14  # of a row group


@dataclasses.dataclass(frozen=True)
class Part:
    """What came of a block of rows.

    Attributes:
        path: The file of its pairs, with the columns of :data:`KEYS`.
        counts: The counts of its rows.
        rejections: Why rows gave no pair, in order.
        answers: The single answers, whose pairs come when all rows are read.
        is_kept: Whether the next run finds it again, by a name that says what it holds.
    """

    path: Path
    counts: Counts
    rejections: list[Rejection]
    answers: list[Entry]
    is_kept: bool = True


def write_part(path: Path, taken: Iterable[Pair | Rejection], placement: Placement, counts: Counts) -> list[Rejection]:
    """Write pairs into a file, which appears whole or not at all, and return the rejections.

    Args:
        path: The file.
        taken: Pairs and rejections.
        placement: Gives what decides on a pair's side, or keeps it out.
        counts: Those of the rows; pairs that are kept out are added.
    """
    rejections: list[Rejection] = []
    draft = path.with_name(f".{secrets.token_hex(8)}.draft")
    try:
        with naming_file(path), PairWriter(draft, KEYS, _MOST_PAIRS) as writer:
            for row in taken:
                place = placement.place(row) if isinstance(row, Pair) else row
                if isinstance(place, Rejection):
                    if isinstance(row, Pair):
                        counts.reject(place)
                    rejections.append(place)
                elif isinstance(row, Pair):
                    prompt, pair, swapped = row.ids
                    writer.append(row, int(prompt, 16), int(pair, 16), int(swapped, 16), *place, *row.lengths)
            outcome = json.dumps([counts.to_json(), [dataclasses.astuple(rejection) for rejection in rejections]])
            if len(outcome) <= _LONGEST_OUTCOME:  # else the next run makes the part anew
                writer.describe({_OUTCOME: outcome})
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return rejections


def make_part(path: Path, taker: RowTaker, block: Block, file: str, placement: Placement) -> Part:
    """Write the pairs of a block into the file ``path``; ``file`` is what an error calls the source.

    Raises:
        DataError: The rows are not readable.
    """
    counts, groups = Counts(), Groups()
    rejections = write_part(path, taker.take(rows_of(block, file), counts, groups), placement, counts)
    return Part(path, counts, rejections, groups.entries, not isinstance(taker.reader.form, Singles))


def read_part(path: Path) -> Part | None:
    """Return a part that was written before; None where there is none, or a damaged one."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
        counts, rejections = json.loads(metadata[_OUTCOME.encode()])
        return Part(path, Counts.from_json(counts), [Rejection(*values) for values in rejections], [])
    except (FileNotFoundError, pa.ArrowException, OSError, KeyError, ValueError, TypeError):
        return None


def read_columns(path: Path, names: Sequence[str]) -> pa.Table:
    """Return columns of a part that was written or known before; one that is damaged is removed.

    Raises:
        StorageError: It is damaged or gone.
    """
    try:
        with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file:
            return file.read(list(names))
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            raise
        path.unlink(missing_ok=True)
        reason = str(error).splitlines()[0]
        what = f"{path} was damaged, and is removed ({reason})"
        raise StorageError(what, "run again: its rows are read anew") from None


class PartFolder:
    """A folder of parts, and the processes that make them; a context manager.

    At its end the parts that no run used for a day are removed. Several runs may share a folder.

    Args:
        folder: The folder.
        placement: Gives what decides on a pair's side, or keeps it out.
        settings: What else a part depends on.
        processes: How many of them make parts; with more than one the program's main module must be importable.
    """

    def __init__(self, folder: Path, placement: Placement, settings: Mapping[str, Any], processes: int = 1) -> None:
        self._folder, self._placement = folder, placement
        room = Path(__file__).parents[1]
        code = [code_digest(room / name) for name in _ROOMS]
        about = {"code": code, "libraries": versions(_LIBRARIES), "placement": placement.digest()}
        self._identity = digest_of({**about, **settings})
        self._count = processes
        self._processes = PartProcesses(processes, placement, make_part)
        self._made = 0
        self._used: set[Path] = set()
        self._temporary: list[Path] = []

    def parts(self, taker: RowTaker, blocks: Iterable[Block], file: str) -> Iterator[Part]:
        """Yield the parts of a source's blocks, in order; ``file`` is what an error calls the source.

        Raises:
            DataError: The source is not readable.
            StorageError: A process was killed.
        """
        identity = digest_of([self._identity, file, _plain([taker.reading, taker.reader.form])])
        waiting: deque[Callable[[], Part]] = deque()
        for block in blocks:
            waiting.append(self._begin(identity, taker, block, file))
            while len(waiting) > 2 * self._count:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()

    def add(self, taken: Iterable[Pair | Rejection], counts: Counts) -> Part:
        """Write a part of pairs at hand; no other run uses it."""
        path = self._temporary_path()
        return Part(path, Counts(), write_part(path, taken, self._placement, counts), [], is_kept=False)

    def _begin(self, identity: str, taker: RowTaker, block: Block, file: str) -> Callable[[], Part]:
        """Return what gives the part of a block: known, made here, or being made by another process."""
        data = pickle.dumps(block, protocol=5)
        path = self._path(digest_of([identity, hashlib.sha256(data).hexdigest()]))
        if isinstance(taker.reader.form, Singles):  # its answers wait for other rows, and are in no file
            path = self._temporary_path()
        elif part := read_part(path):
            with contextlib.suppress(FileNotFoundError):  # who reads its pairs says so
                os.utime(path)
            return lambda: part
        self._made += 1
        job = (path, taker, block, file)
        if self._made == 1 or self._count == 1 or len(data) < _SMALL:
            done = make_part(*job, self._placement)
            return lambda: done
        return self._processes.begin(*job)

    def _temporary_path(self) -> Path:
        self._temporary.append(self._path(secrets.token_hex(32)))
        return self._temporary[-1]

    def _path(self, name: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}{_SUFFIX}"
        self._used.add(path)
        return path

    def __enter__(self) -> PartFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._processes.close()
        for path in self._temporary:
            path.unlink(missing_ok=True)
        if kind is None:
            remove_unused(self._folder, self._used)


def _plain(value: Any) -> Any:
    """Return settings as JSON values, the same for equal ones in every process."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return [[str(name), _plain(item)] for name, item in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    return value.__qualname__ if callable(value) else repr(value)
