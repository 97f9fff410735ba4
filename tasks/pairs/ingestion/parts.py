"""The pairs of a block of rows, in a file: made by any process, and used again by the next run.

A part is named by the hash of all that makes it: the rows' bytes, how they are read, and the code. So a run over
data that grew reads the new rows alone. Parts are a cache: to lose one costs time and never a result.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import pickle
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import StorageError
from tasks.core.files import canonical_json, code_digest, digest_of
from tasks.core.versions import versions
from tasks.pairs.forms.groups import Entry, Groups
from tasks.pairs.forms.singles import Singles
from tasks.pairs.ingestion.counts import Counts
from tasks.pairs.ingestion.formats import rows_of
from tasks.pairs.ingestion.placement import Placement
from tasks.pairs.ingestion.row_taker import RowTaker
from tasks.pairs.ingestion.verdicts import LENGTHS
from tasks.pairs.raw.raw_row import Block
from tasks.pairs.record.pair import Pair, Rejection
from tasks.pairs.record.parquet import PairWriter

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
_LIBRARIES = ("orjson", "pyarrow", "presidio-analyzer", "detect-secrets", "rensa")
_OUTCOME = "outcome"  # the key of the file's metadata that holds counts and rejections
_SUFFIX = ".parquet"
_MOST_PAIRS = 1 << 14  # of a row group
_KEPT_S = 24 * 3600.0  # how long a part is kept that no run uses


@dataclasses.dataclass(frozen=True)
class Part:
    """What came of a block of rows.

    Attributes:
        path: The file of its pairs, with the columns of :data:`KEYS`.
        counts: The counts of its rows.
        rejections: Why rows gave no pair, in order.
        answers: The single answers, whose pairs come when all rows are read.
    """

    path: Path
    counts: Counts
    rejections: list[Rejection]
    answers: list[Entry]


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
    with PairWriter(draft, KEYS, _MOST_PAIRS) as writer:
        for row in taken:
            place = placement.place(row) if isinstance(row, Pair) else row
            if isinstance(place, Rejection):
                if isinstance(row, Pair):
                    counts.reject(place)
                rejections.append(place)
            elif isinstance(row, Pair):
                prompt, pair, swapped = row.ids
                writer.append(row, int(prompt, 16), int(pair, 16), int(swapped, 16), *place, *row.lengths)
        outcome = [counts.to_json(), [dataclasses.astuple(rejection) for rejection in rejections]]
        writer.describe({_OUTCOME: canonical_json(outcome)})
    draft.replace(path)
    return rejections


def make_part(path: Path, taker: RowTaker, block: Block, file: str, placement: Placement) -> Part:
    """Write the pairs of a block into the file ``path``; ``file`` is what an error calls the source.

    Raises:
        DataError: The rows are not readable.
    """
    counts, groups = Counts(), Groups()
    rejections = write_part(path, taker.take(rows_of(block, file), counts, groups), placement, counts)
    return Part(path, counts, rejections, groups.entries)


def read_part(path: Path) -> Part | None:
    """Return a part that was written before; None where there is none, or a damaged one."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
        counts, rejections = json.loads(metadata[_OUTCOME.encode()])
        return Part(path, Counts.from_json(counts), [Rejection(*values) for values in rejections], [])
    except (FileNotFoundError, pa.ArrowException, OSError, KeyError, ValueError, TypeError):
        return None


class PartFolder:
    """A folder of parts, and the processes that make them; a context manager.

    At its end the parts that no run used for a day are removed.

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
        self._identity = digest_of({"code": code, "libraries": versions(_LIBRARIES), **settings})
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None
        self._made = 0
        self._used: set[Path] = set()

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
            while len(waiting) > 2 * self._processes:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()

    def add(self, taken: Iterable[Pair | Rejection], counts: Counts) -> Part:
        """Write a part of pairs at hand."""
        path = self._path(secrets.token_hex(32))
        return Part(path, Counts(), write_part(path, taken, self._placement, counts), [])

    def _begin(self, identity: str, taker: RowTaker, block: Block, file: str) -> Callable[[], Part]:
        """Return what gives the part of a block: known, made here, or being made by another process."""
        content = hashlib.sha256(pickle.dumps(block, protocol=5)).hexdigest()
        path = self._path(digest_of([identity, content]))
        if isinstance(taker.reader.form, Singles):  # its answers wait for other rows, and are in no file
            path = self._path(secrets.token_hex(32))
        elif part := read_part(path):
            path.touch()
            return lambda: part
        self._made += 1
        job = (path, taker, block, file)
        if self._made == 1 or self._processes == 1:  # a small source needs no process of its own
            done = make_part(*job, self._placement)
            return lambda: done
        if self._pool is None:
            context = multiprocessing.get_context("forkserver")
            self._pool = ProcessPoolExecutor(self._processes, context, _set_placement, (self._placement,))
        return _result_of(self._pool.submit(_make_in_worker, *job))

    def _path(self, name: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}{_SUFFIX}"
        self._used.add(path)
        return path

    def __enter__(self) -> PartFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        if kind is None and self._folder.is_dir():
            for path in self._folder.iterdir():
                if path not in self._used and path.stat().st_mtime < time.time() - _KEPT_S:
                    path.unlink(missing_ok=True)


_placement = Placement()  # of a worker process


def _set_placement(placement: Placement) -> None:
    global _placement
    _placement = placement


def _make_in_worker(path: Path, taker: RowTaker, block: Block, file: str) -> Part:
    return make_part(path, taker, block, file, _placement)


def _result_of(future: Future[Part]) -> Callable[[], Part]:
    def result() -> Part:
        try:
            return future.result()
        except BrokenProcessPool:
            what = "a process that reads rows was killed, which the system does where memory runs out"
            raise StorageError(what, "free some memory and run again") from None

    return result


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
