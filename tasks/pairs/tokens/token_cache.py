"""The token cache: preference pairs as flat token ids with lengths, in memory or memory-mapped.

Every row stands as [prompt | chosen | rejected] in one flat array, so a data set is six arrays of
numpy whatever its size, and training opens it without reading it. Needs numpy only.

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
from typing import IO

import numpy as np
import numpy.typing as npt

from tasks.core.errors import ArtifactError
from tasks.core.files import read_manifest, sha256_file

Ids = npt.NDArray[np.int32]
Keys = npt.NDArray[np.bytes_]
Numbers = npt.NDArray[np.float32]

PARTS = ("ids", "lengths", "pair_ids", "prompt_ids", "weights", "margins")
KEY_TYPE = "S16"
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
        ids: int32 [total], each row's prompt, chosen and rejected tokens one after the other.
        lengths: int32 [n, 3], P, C and R of each row.
        pair_ids: S16 [n], the identity of each pair (16 hex digits).
        prompt_ids: S16 [n], the identity of each pair's prompt.
        weights: float32 [n], how much each pair counts in the loss, above 0.
        margins: float32 [n], by how much its chosen reply was found better.
    """

    ids: Ids
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
        """Return row ``i`` as views into ``ids``.

        Raises:
            IndexError: There is no such row.
        """
        if not -len(self) <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        start = int(self.starts[i])
        p, c, r = (int(length) for length in self.lengths[i])
        first, second = start + p, start + p + c
        return TokenRow(self.ids[start:first], self.ids[first:second], self.ids[second : second + r])

    def digest(self) -> str:
        """Return a SHA-256 in hex over all rows: ids, boundaries, identities, weights and margins, in order."""
        return self._digest_of(*PARTS)

    def token_digest(self) -> str:
        """Return a SHA-256 in hex over ids and boundaries alone: all that a log-probability depends on."""
        return self._digest_of("lengths", "ids")

    def _digest_of(self, *names: str) -> str:
        digest = hashlib.sha256()
        for array in (getattr(self, name) for name in names):
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data if array.size else b"")
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
    """

    def __init__(self, folder: Path, split: str) -> None:
        self._folder = folder
        self._split = split
        self._small: list[TokenPairs] = []
        self._total = 0
        self._ids: IO[bytes] = cache_path(folder, split, "ids").open("wb")
        _write_header(self._ids, 0)

    def append(self, batch: TokenPairs) -> None:
        """Add the rows of ``batch`` behind those written so far."""
        self._ids.write(np.ascontiguousarray(batch.ids, dtype="<i4").data if batch.ids.size else b"")
        self._total += batch.ids.size
        self._small.append(dataclasses.replace(batch, ids=batch.ids[:0]))

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._ids:
            if kind is not None:
                return
            self._ids.seek(0)
            _write_header(self._ids, self._total)
        whole = TokenPairs.concatenate(self._small)
        for name in PARTS[1:]:
            held = io.BytesIO()  # numpy writing to a full disk itself raises an error that does not say so
            np.save(held, getattr(whole, name), allow_pickle=False)
            cache_path(self._folder, self._split, name).write_bytes(held.getvalue())


def _write_header(stream: IO[bytes], total: int) -> None:
    """Write the .npy header of int32 [total]; numpy leaves room, so its size does not depend on ``total``."""
    header = {"descr": "<i4", "fortran_order": False, "shape": (total,)}
    np.lib.format.write_array_header_1_0(stream, header)


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
    if pairs.ids.dtype != np.int32 or pairs.lengths.dtype != np.int32:
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
