"""Near-duplicate prompts, which stand on one side of the split (`ingest.near_duplicates: minhash`).

Two prompts are near where the Jaccard similarity of their shingles (runs of five letters or digits) is 0.8 or more.
MinHash with bands (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, section 3.4) finds the candidates, and
their shingles decide.
"""

from __future__ import annotations

import dataclasses
import itertools
from array import array
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

NEAR = 0.8
TRAIN, TEST, NEITHER = range(3)

_SHINGLE = 5  # letters
_HASHES = 128
_BANDS, _ROWS = 21, 6  # two prompts at NEAR share a band with probability 1 - (1 - 0.8^6)^21 = 0.998
_LEAST_ALIKE = 91  # of the hashes; of two prompts at NEAR, 102 agree on average, with a standard deviation of 4.5
_WINDOW = 16  # earlier prompts with the same band that each is compared with, so that time is linear in the prompts
_MOST = 8  # of them, those on one side whose shingles are compared
_SEED = 1
_CHUNK = 1 << 14  # pairs whose shingles are compared at once
_EARLIER = 0xFFFFFFFF  # a pair of prompts is one number: the later one << 32 | the earlier one

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def signature(letters: str) -> bytes:
    """Return the MinHash of a prompt's letters (its words without spaces): 128 numbers of 32 bits."""
    import rensa

    hashes = rensa.RMinHash(_HASHES, _SEED)
    hashes.update([letters[i : i + _SHINGLE] for i in range(max(1, len(letters) - _SHINGLE + 1))])
    return array("I", hashes.digest()).tobytes()


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts in the order in which they take their sides.

    Attributes:
        letters: The letters of each.
        bands: uint64 [bands, prompts], a hash of each band of its signature.
        hashes: uint8 [prompts, hashes], the lowest bits of its signature: different numbers agree once in 256.
    """

    letters: pa.LargeStringArray
    bands: npt.NDArray[np.uint64]
    hashes: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, letters: Iterable[str]) -> Prompts:
        """Return the prompts with these letters."""
        texts = pa.array(letters, pa.large_string())
        return cls(texts, *_parts_of(b"".join(map(signature, texts.to_pylist()))))


def read_prompts(path: Path, rows: Numbers) -> Prompts:
    """Return the prompts in the given rows of a file with the columns `letters` and `signature`."""
    letters, parts = [], []
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(columns=["letters", "signature"]):
            letters.append(batch["letters"])
            parts.append(_parts_of(b"".join(batch["signature"].to_pylist())))
    texts = pa.chunked_array(letters, pa.large_string()).take(pa.array(rows)).combine_chunks()
    bands = np.concatenate([np.zeros((_BANDS, 0), np.uint64), *(bands for bands, _ in parts)], axis=1)
    hashes = np.concatenate([np.zeros((0, _HASHES), np.uint8), *(hashes for _, hashes in parts)])
    return Prompts(texts, bands[:, rows], hashes[rows])


def _parts_of(signatures: bytes) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]]:
    """Return the bands and the lowest bits of signatures, one behind the other."""
    hashes = np.frombuffer(signatures, np.uint32).reshape(-1, _HASHES)
    bands = np.zeros((_BANDS, len(hashes)), np.uint64)
    for row in range(_ROWS):
        bands = _mixed(bands ^ hashes[:, row * _BANDS : (row + 1) * _BANDS].T)
    return bands, hashes.astype(np.uint8)


def near_sides(
    prompts: Prompts, sides: npt.NDArray[np.integer], is_tested: Flags, is_free: Flags
) -> tuple[npt.NDArray[np.uint8], Flags]:
    """Return on which side each prompt stands, and whether it is near to an earlier one.

    A prompt takes the side of the earlier ones that it is near to, else its own. It is left out if they stand on both
    sides, or on one that it cannot take. So later prompts never move an earlier one.

    Args:
        prompts: Distinct prompts; those of test sources come first.
        sides: The own side of each, TRAIN or TEST.
        is_tested: Whether it stands in a test source: it stays there, and no prompt near to it is kept elsewhere.
        is_free: Whether it may take the other side.

    Returns:
        uint8 [prompts], TRAIN, TEST or NEITHER; and bool [prompts].
    """
    taken, is_near = bytearray(sides.astype(np.uint8).tobytes()), np.zeros(len(sides), np.bool_)
    groups = itertools.groupby(_near_pairs(prompts, sides), key=itemgetter(0))
    for later, pairs in groups:
        earlier = [one for _, one in pairs if taken[one] != NEITHER]
        if not earlier or is_tested[later]:
            continue
        is_near[later] = True
        places = {taken[one] for one in earlier}
        may_stand = is_free[later] or places == {taken[later]}
        is_kept = len(places) == 1 and may_stand and not any(is_tested[one] for one in earlier)
        taken[later] = places.pop() if is_kept else NEITHER
    return np.frombuffer(taken, np.uint8), is_near


def _near_pairs(prompts: Prompts, sides: npt.NDArray[np.integer]) -> Iterator[tuple[int, int]]:
    """Yield each later prompt and an earlier one that it is near to, in the order of the later ones."""
    pairs = _alike_pairs(prompts, sides)
    compared, places = np.unique(np.concatenate([pairs >> 32, pairs & _EARLIER]), return_inverse=True)
    table = _shingle_table(prompts.letters[place].as_py() for place in compared.tolist())
    sizes = np.diff(table.indptr)
    for start in range(0, len(pairs), _CHUNK):
        one, two = (ends[start : start + _CHUNK] for ends in np.split(places, 2))
        shared = np.diff(table[one].multiply(table[two]).indptr)
        near = pairs[start : start + _CHUNK][shared >= NEAR * (sizes[one] + sizes[two] - shared)]
        yield from zip((near >> 32).tolist(), (near & _EARLIER).tolist(), strict=True)


def _alike_pairs(prompts: Prompts, sides: npt.NDArray[np.integer]) -> Numbers:
    """Return the pairs of prompts that share a band and most of their hashes, in the order of the later ones.

    Of each prompt those with the most common hashes are kept, for each side on which the earlier one may stand.
    """
    alike = [np.zeros(0, np.int64)]
    for keys in prompts.bands:
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        for lag in range(1, _WINDOW + 1):
            places = np.flatnonzero(keys[lag:] == keys[:-lag])
            pairs = order[places + lag] << 32 | order[places]
            alike.append(pairs[_agreeing(prompts.hashes, pairs) >= _LEAST_ALIKE])

    pairs = np.unique(np.concatenate(alike))
    group = pairs >> 32 << 1 | sides[pairs & _EARLIER].astype(np.int64)
    order = np.argsort(group << 8 | _HASHES - _agreeing(prompts.hashes, pairs))
    pairs, group = pairs[order], group[order]
    is_best = np.ones(len(pairs), np.bool_)
    is_best[_MOST:] = group[_MOST:] != group[:-_MOST]
    return pairs[is_best]


def _agreeing(hashes: npt.NDArray[np.uint8], pairs: Numbers) -> Numbers:
    """Return how many hashes agree in each pair of prompts: eight at once, as the bytes of one number."""
    words = hashes.view(np.uint64)
    counts = np.zeros(len(pairs), np.uint64)
    for start in range(0, len(pairs), 4096):
        some = pairs[start : start + 4096]
        one, two = words[some >> 32].view(np.uint8), words[some & _EARLIER].view(np.uint8)
        counts[start : start + 4096] = (one == two).view(np.uint64).sum(axis=1)
    return ((counts * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.int64)


def _shingle_table(texts: Iterable[str]) -> Any:
    """Return which shingles each text has: a sparse array with a row a text, and a column for each hash of 30 bits."""
    from scipy.sparse import csr_array

    columns = [np.zeros(0, np.int32), *map(_hashed_shingles, texts)]
    ends = np.cumsum(list(map(len, columns)))
    ones = np.ones(ends[-1], np.int8)
    return csr_array((ones, np.concatenate(columns), ends), shape=(len(columns) - 1, 1 << 30))


def _hashed_shingles(letters: str) -> npt.NDArray[np.int32]:
    """Return the distinct shingles of a prompt as hashes of 30 bits, sorted."""
    points = np.frombuffer(letters.ljust(_SHINGLE).encode("utf-32-le"), np.uint32).astype(np.uint64)
    hashes = np.zeros(len(points) - _SHINGLE + 1, np.uint64)
    for place in range(_SHINGLE):
        hashes = _mixed(hashes ^ points[place : place + len(hashes)])
    return np.unique((hashes >> np.uint64(34)).astype(np.int32))


def _mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    numbers = numbers * np.uint64(0x9E3779B97F4A7C15)
    return numbers ^ (numbers >> np.uint64(29))
