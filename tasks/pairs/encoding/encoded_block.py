"""What encoding makes of some rows of a file, as one block: a known block is taken whole, without a look at its rows.

A block's name says all that it depends on: the file's bytes, the place of the rows there, and what makes tokens.
Blocks are a cache: to lose one costs time and never a result.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.core.cache_folder import CacheFolder
from tasks.pairs.encoding.tally import Tally
from tasks.pairs.tokens.token_cache import KEY_TYPE, PARTS, TokenPairs

_MOST_BYTES = 1 << 30  # of the ids of a block that is kept
_SUFFIX = ".block"
_ALIGNED = 64  # bytes
_CODEC = pa.Codec("zstd", compression_level=3)
_TYPES: Mapping[str, npt.DTypeLike] = dict(
    zip((*PARTS, "prompts"), ("<i4", "<i4", KEY_TYPE, KEY_TYPE, "<f4", "<f4", KEY_TYPE), strict=True)
)


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedBlock:
    """The results of some rows, in their order.

    Attributes:
        rows: How many pairs there were, those that were dropped included.
        tokens: Of the pairs that were kept.
        tally: What became of the pairs.
        dropped: The lines of dropped.jsonl.
        prompts: S16 [p], the prompts of the pairs that were kept, each once; none where nobody answers them.
        lines: Their lines of prompts.jsonl.
    """

    rows: int
    tokens: TokenPairs
    tally: Tally
    dropped: bytes
    prompts: npt.NDArray[np.bytes_]
    lines: list[bytes]


class BlockCache(CacheFolder):
    """Blocks of earlier runs, each in a file: the SHA-256 of the rest, the size of the content, and that compressed.

    The content is a line of JSON, filled up with spaces so that numbers lie at multiples of their size, and the values.
    """

    def take(self, key: str) -> EncodedBlock | None:
        """Return a block that was kept; None where there is none, or a damaged one."""
        if self.folder is None:
            return None
        path = self.folder / f"{key}{_SUFFIX}"
        try:
            block = _unpack(path.read_bytes())
            self.use(path)
        except (FileNotFoundError, ValueError):
            return None
        return block

    def keep(self, key: str, block: EncodedBlock) -> None:
        """Keep a block."""
        if self.folder is None or block.tokens.ids.nbytes > _MOST_BYTES:
            return
        with self.writing(self.folder / f"{key}{_SUFFIX}") as draft:
            draft.write_bytes(_pack(block))


def _pack(block: EncodedBlock) -> bytes:
    arrays = {**{name: getattr(block.tokens, name) for name in PARTS}, "prompts": block.prompts}
    values = {name: np.ascontiguousarray(arrays[name], kind).tobytes() for name, kind in _TYPES.items()}
    values |= {"dropped": block.dropped, "lines": b"".join(block.lines)}
    facts = {"rows": block.rows, "tally": block.tally.to_json(), "sizes": {name: len(values[name]) for name in values}}
    header = json.dumps(facts).encode()
    content = b"".join([header.ljust((len(header) // _ALIGNED + 1) * _ALIGNED - 1), b"\n", *values.values()])
    rest: bytes = len(content).to_bytes(8, "little") + _CODEC.compress(content, asbytes=True)
    return hashlib.sha256(rest).digest() + rest


def _unpack(data: bytes) -> EncodedBlock:
    """Return the block that a file holds.

    Raises:
        ValueError: It holds none, or its bytes have changed.
    """
    digest, rest = data[:32], memoryview(data)[32:]
    if hashlib.sha256(rest).digest() != digest:
        raise ValueError("its bytes have changed")
    content = _CODEC.decompress(pa.py_buffer(rest[8:]), int.from_bytes(rest[:8], "little"), asbytes=True)
    place = content.index(b"\n") + 1
    facts = json.loads(content[:place])

    values = {}
    for name, size in facts["sizes"].items():
        values[name] = memoryview(content)[place : place + size]
        place += size
    arrays = {name: np.frombuffer(values[name], kind) for name, kind in _TYPES.items()}
    small = {name: array.copy() for name, array in arrays.items() if name != "ids"}  # a view would keep all of it
    small["lengths"] = small["lengths"].reshape(-1, 3)
    prompts = small.pop("prompts")
    tally = Tally.from_json(facts["tally"], small["lengths"])
    lines = io.BytesIO(values["lines"]).readlines()
    tokens = TokenPairs(ids=arrays["ids"], **small)
    return EncodedBlock(facts["rows"], tokens, tally, bytes(values["dropped"]), prompts, lines)
