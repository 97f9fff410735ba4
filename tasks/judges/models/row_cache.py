"""Numbers of texts that were computed before, from the row store; what is new is computed and added to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.rowstore.row_store import RowStore
from tasks.telemetry.log import bar

Floats = npt.NDArray[np.float32]
_CHUNK = 512  # rows between two writes; what a killed stage computed since the last one is lost


class TokenText(NamedTuple):
    """A text as tokens.

    Attributes:
        ids: All of them.
        start: Where the reply begins.
    """

    ids: tuple[int, ...]
    start: int = 0

    def key(self, identity: str) -> bytes:
        """Return the SHA-256 of all that a model's numbers depend on, with the model's ``identity``."""
        head = f"{identity}\n{self.start}\n".encode()
        return hashlib.sha256(head + np.array(self.ids, "<i4").tobytes()).digest()


def recall(
    store: RowStore | None,
    keys: Sequence[bytes],
    compute: Callable[[list[int]], Sequence[Floats]],
    what: str,
) -> list[Floats]:
    """Return the row of each key, float32 [d], from ``store`` or else computed; equal keys are computed once.

    Args:
        store: The store; None computes all.
        keys: 32 bytes each.
        compute: Takes places in ``keys``, and returns their rows in that order.
        what: What is computed, for the progress line.

    Raises:
        OSError, StorageError, NetworkError: The store fails.
    """
    place_of = {key: place for place, key in reversed(list(enumerate(keys)))}
    rows = dict(_stored(store, list(place_of)))
    missing = [key for key in place_of if key not in rows]
    if missing:
        with bar(what, total=len(missing), unit="text") as progress:
            for start in range(0, len(missing), _CHUNK):
                chunk = missing[start : start + _CHUNK]
                new = dict(zip(chunk, compute([place_of[key] for key in chunk]), strict=True))
                _keep(store, new)
                rows |= new
                progress.update(len(chunk))
    return [rows[key] for key in keys]


def _stored(store: RowStore | None, keys: list[bytes]) -> Iterator[tuple[bytes, Floats]]:
    if store is None or not keys:
        return
    stored = store.get(_as_array(keys))
    for place in np.flatnonzero(stored.mask):
        yield keys[place], stored.values(int(place))


def _keep(store: RowStore | None, rows: dict[bytes, Floats]) -> None:
    if store is not None:
        lengths = np.array([len(row) for row in rows.values()], np.int64)
        store.append(_as_array(list(rows)), np.concatenate(list(rows.values())), lengths)


def _as_array(keys: list[bytes]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)
