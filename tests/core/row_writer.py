"""A process that writes to a row store: run by the tests that kill it and that let several race.

python -m tests.core.row_writer FOLDER FIRST LAST ROWS    rows FIRST to LAST, ROWS a segment
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as _  # noqa: F401 the first append shall not have to wait for it

from tasks.rowstore.row_store import RowStore, StoredRows

Numbers = npt.NDArray[np.int64]


def keys_of(numbers: Numbers) -> npt.NDArray[np.uint8]:
    """The key of row i is the hash of i."""
    return np.array(
        [list(hashlib.sha256(str(number).encode()).digest()) for number in numbers.tolist()], np.uint8
    ).reshape(-1, 32)


def lengths_of(numbers: Numbers) -> Numbers:
    """Row i has i mod 7 values."""
    return numbers % 7


def values_of(numbers: Numbers) -> npt.NDArray[np.float32]:
    """The values of row i are 10 i, 10 i + 1 and so on."""
    parts = [10 * number + np.arange(number % 7) for number in numbers.tolist()]
    return np.concatenate([np.zeros(0), *parts]).astype(np.float32)


def append(store: RowStore, numbers: Numbers) -> None:
    """Append the rows of ``numbers``."""
    store.append(keys_of(numbers), values_of(numbers), lengths_of(numbers))


def opened(folder: Path) -> RowStore:
    """Open the store of the reference's rows in ``folder``."""
    return RowStore.open(folder, "reference")


def filled(folder: Path, *parts: range) -> RowStore:
    """Return a store with a segment for each of ``parts``."""
    store = opened(folder)
    for part in parts:
        append(store, np.array(part))
    return store


def files(folder: Path) -> list[Path]:
    """Return the files of that store."""
    return sorted((folder / "reference").iterdir())


def holds(found: StoredRows, numbers: Numbers, known: set[int]) -> None:
    """Check that exactly the rows ``known`` are found among ``numbers``, each with its own values."""
    assert found.mask.tolist() == [number in known for number in numbers.tolist()]
    own = numbers[found.mask]
    assert found.lengths[found.mask].tolist() == lengths_of(own).tolist()
    assert found.lengths[~found.mask].sum() == 0
    assert np.array_equal(found.flat, values_of(own))


def main(folder: Path, first: int, last: int, rows: int) -> None:
    """Append segment after segment, and say which rows are safe."""
    store = RowStore.open(folder, "reference")
    print("ready", flush=True)
    for start in range(first, last, rows):
        append(store, np.arange(start, min(last, start + rows)))
        print(min(last, start + rows), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
