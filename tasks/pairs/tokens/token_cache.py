"""The token cache: preference pairs as flat token ids with lengths, in memory or memory-mapped.

Every row stands as [prompt | chosen | rejected] in one flat array, so a data set is six arrays of
numpy whatever its size, and training opens it without reading it. On disk ids have the smallest type that holds
the vocabulary; a row that is read is int32 whatever that type is. Needs numpy only.

P, C and R are the numbers of prompt, chosen and rejected tokens of a row; n the number of rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tasks.core.background import Behind
from tasks.core.errors import ArtifactError
from tasks.core.files import read_manifest, sha256_file

Ids = npt.NDArray[np.int32]
StoredIds = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | Ids
Keys = npt.NDArray[np.bytes_]
Numbers = npt.NDArray[np.float32]

PARTS = ("ids", "lengths", "pair_ids", "prompt_ids", "weights", "margins")
ID_TYPES = tuple(map(np.dtype, ("<u1", "<u2", "<i4")))  # of ids on disk
KEY_TYPE = "S16"
_HASHED_AT_ONCE = 1 << 20  # ids
_REDO = "delete the folder and run `dvc repro encode`"


@dataclasses.dataclass(frozen=True, eq=False)
class TokenRow:
    """One pair's tokens: int32 arrays of P, C and R ids."""

    prompt: Ids
    chosen: Ids
    rejected: Ids


@dataclasses.dataclass(frozen=True, eq=False)
class TokenPairs:
    """Tokenised preference pairs.

    Attributes:
        ids: [total], one of :data:`ID_TYPES`, each row's prompt, chosen and rejected tokens one after the other.
        lengths: int32 [n, 3], P, C and R of each row.
        pair_ids: S16 [n], the identity of each pair (16 hex digits).
        prompt_ids: S16 [n], the identity of each pair's prompt.
        weights: float32 [n], how much each pair counts in the loss, above 0.
        margins: float32 [n], by how much its chosen reply was found better.
    """

    ids: StoredIds
    lengths: Ids
    pair_ids: Keys
    prompt_ids: Keys
    weights: Numbers
    margins: Numbers

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """Where each row begins in ``ids``: int64 [n]."""
        sizes: npt.NDArray[np.int64] = self.lengths.sum(axis=1, dtype=np.int64)
        starts: npt.NDArray[np.int64] = np.cumsum(sizes) - sizes
        return starts

    def row(self, i: int) -> TokenRow:
        """Return row ``i``, int32: views into ``ids`` where these are.

        Raises:
            IndexError: There is no such row.
        """
        if not -len(self) <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        start = int(self.starts[i])
        p, c, r = (int(length) for length in self.lengths[i])
        ids = self.ids[start : start + p + c + r].astype(np.int32, copy=False)
        return TokenRow(ids[:p], ids[p : p + c], ids[p + c :])

    def digest(self) -> str:
        """Return a SHA-256 in hex over all rows: ids, boundaries, identities, weights and margins, in order.

        The type that ids are stored in changes neither this nor the other digest.
        """
        return self._digest_of(*PARTS)

    def token_digest(self) -> str:
        """Return a SHA-256 in hex over ids and boundaries alone: all that a log-probability depends on."""
        return self._digest_of("lengths", "ids")

    def _digest_of(self, *names: str) -> str:
        digest = hashlib.sha256()
        for name in names:
            array = getattr(self, name)
            digest.update(str(array.shape).encode())
            if name == "ids":
                for begin in range(0, len(array), _HASHED_AT_ONCE):
                    digest.update(np.ascontiguousarray(array[begin : begin + _HASHED_AT_ONCE], "<i4").data)
            elif array.size:
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @classmethod
    def of_rows(
        cls,
        rows: Iterable[TokenRow],
        pair_ids: Iterable[str],
        prompt_ids: Iterable[str],
        weights: Iterable[float] | None = None,
        margins: Iterable[float] | None = None,
    ) -> TokenPairs:
        """Build from rows, their identities, weights (1 unless given) and margins (0 unless given), in order."""
        parts = [(row.prompt, row.chosen, row.rejected) for row in rows]
        flat = [part for row in parts for part in row]
        lengths = np.array([[len(part) for part in row] for row in parts], dtype=np.int32).reshape(-1, 3)
        ids = np.concatenate(flat).astype(np.int32, copy=False) if flat else np.zeros(0, dtype=np.int32)
        names = (np.array(list(given), dtype=KEY_TYPE) for given in (pair_ids, prompt_ids))
        numbers = (
            np.full(len(parts), usual, dtype=np.float32) if given is None else np.array(list(given), dtype=np.float32)
            for given, usual in ((weights, 1), (margins, 0))
        )
        return cls(ids, lengths, *names, *numbers)

    @classmethod
    def concatenate(cls, parts: Iterable[TokenPairs]) -> TokenPairs:
        """Join several into one, in order."""
        every = [cls.of_rows([], [], []), *parts]
        return cls(*(np.concatenate([getattr(part, name) for part in every]) for name in PARTS))


class TokenWriter:
    """Writes one split of the cache batch by batch; the ids go straight to disk.

    Use as a context manager: the files are complete when it closes without an exception.

    Args:
        folder: Where the files go.
        split: `train` or `test`.
        vocabulary: The number of ids that there are, by which their type is chosen.
    """

    def __init__(self, folder: Path, split: str, vocabulary: int = 1 << 31) -> None:
        self._folder = folder
        self._split = split
        self._vocabulary, self._type = vocabulary, id_type(vocabulary)
        self._small: list[TokenPairs] = []
        self._total = 0
        self._ids: IO[bytes] = cache_path(folder, split, "ids").open("wb")
        self._write_header()
        self._writing = Behind()

    def append(self, batch: TokenPairs) -> None:
        """Add the rows of ``batch`` behind those written so far.

        Raises:
            ValueError: An id lies outside the vocabulary.
        """
        if batch.ids.size:
            lowest, highest = int(batch.ids.min()), int(batch.ids.max())
            if lowest < 0 or highest >= self._vocabulary:
                raise ValueError(f"ids from {lowest} to {highest} do not fit a vocabulary of {self._vocabulary}")
            self._writing.do(self._ids.write, np.ascontiguousarray(batch.ids, self._type).data)
        self._total += batch.ids.size
        self._small.append(dataclasses.replace(batch, ids=batch.ids[:0].copy()))  # a view would keep the whole batch

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._ids:
            self._writing.end(kind is not None)
            if kind is not None:
                return
            self._ids.seek(0)
            self._write_header()
        whole = TokenPairs.concatenate(self._small)
        for name in PARTS[1:]:
            held = io.BytesIO()  # numpy writing to a full disk itself raises an error that does not say so
            np.save(held, getattr(whole, name), allow_pickle=False)
            cache_path(self._folder, self._split, name).write_bytes(held.getvalue())

    def _write_header(self) -> None:
        """Write the .npy header of the ids; numpy leaves room, so its size does not depend on their number."""
        header = {"descr": self._type.str, "fortran_order": False, "shape": (self._total,)}
        np.lib.format.write_array_header_1_0(self._ids, header)


def id_type(vocabulary: int) -> np.dtype[Any]:
    """Return the smallest of :data:`ID_TYPES` that holds the ids of a vocabulary of that size."""
    return next(kind for kind in ID_TYPES if vocabulary - 1 <= np.iinfo(kind).max)


def cache_path(folder: Path, split: str, name: str) -> Path:
    """Return the file that holds one array of a split."""
    return folder / f"{split}.{name}.npy"


def open_tokens(folder: Path, split: str, check_bytes: bool = True) -> TokenPairs:
    """Open one split of a token cache, memory-mapped.

    Args:
        folder: What the encode stage wrote (`data/tokens`).
        split: `train` or `test`.
        check_bytes: Compare each file with its SHA-256 in the manifest (about a second a gigabyte).

    Raises:
        ArtifactError: The cache is missing, unfinished, or not what its manifest says.
    """
    files = read_manifest(folder, "encode")["files"]
    arrays = {}
    for name in PARTS:
        path = cache_path(folder, split, name)
        if path.name not in files:
            raise ArtifactError(f"{folder} holds no split `{split}`: {path.name} is not in its manifest", _REDO)
        if check_bytes and sha256_file(path) != files[path.name]["sha256"]:
            raise ArtifactError(f"{path} is corrupt: its bytes are not those that the encode stage wrote", _REDO)
        try:
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ArtifactError(f"{path} is not a readable array ({error})", _REDO) from None
    pairs = TokenPairs(**arrays)
    if fault := _fault(pairs):
        raise ArtifactError(f"the token cache {folder} ({split}) is corrupt: {fault}", _REDO)
    return pairs


def _fault(pairs: TokenPairs) -> str | None:
    """Say what is inconsistent between the arrays; None when nothing is."""
    n = len(pairs.lengths)
    if pairs.ids.dtype not in ID_TYPES or pairs.lengths.dtype != np.int32:
        return f"ids are {pairs.ids.dtype} and lengths {pairs.lengths.dtype}, not int32"
    if pairs.ids.ndim != 1 or pairs.lengths.shape != (n, 3):
        return f"ids have shape {pairs.ids.shape} and lengths {pairs.lengths.shape}"

    for name in PARTS[2:]:
        kind: npt.DTypeLike = KEY_TYPE if name.endswith("_ids") else np.float32
        array = getattr(pairs, name)
        if array.shape != (n,) or array.dtype != kind:
            return f"{name} are {array.dtype} of shape {array.shape}, not {np.dtype(kind)} of ({n},)"

    if not (np.isfinite(pairs.margins).all() and np.isfinite(pairs.weights).all() and (pairs.weights > 0).all()):
        return "a weight is not a finite number above 0, or a margin is not finite"
    if n == 0 or int(pairs.lengths.min()) < 1:
        return "it has no rows" if n == 0 else "a row has an empty prompt or reply"
    total = int(pairs.lengths.sum(dtype=np.int64))
    return None if total == pairs.ids.size else f"lengths add up to {total} tokens, ids hold {pairs.ids.size}"
