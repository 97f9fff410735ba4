"""Train and test as folders of shards: files of the pairs that some parts, one after the other, give to one side.

Where a shard ends depends on the pairs there alone, and so do its bytes. A run over data that grew copies the shards
whose parts and verdicts an earlier run had, and writes the others. What is kept for that is a cache.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.background import Behind, ahead
from tasks.core.cache_folder import CacheFolder
from tasks.core.files import canonical_json, digest_of, sha256_bytes, sha256_file
from tasks.pairs.ingestion.parts import Part, read_columns
from tasks.pairs.ingestion.selection import PLACES, SIDES
from tasks.pairs.ingestion.verdicts import LENGTHS, Verdicts
from tasks.pairs.record.parquet import SCHEMA, PairWriter, keep_rows

CHARACTERS = 1 << 23  # of the texts of a shard and of what is left out there, on average


@dataclasses.dataclass(frozen=True)
class ReadPart:
    """A part whose keys were read.

    Attributes:
        path: Its file.
        entry: The number of its entry in `ingest.sources`.
        rows: How many pairs it has.
        is_kept: Whether its name says what it holds, so that the next run may find it again.
        ends_shard: Whether a shard ends behind it.
    """

    path: Path
    entry: int
    rows: int
    is_kept: bool
    ends_shard: bool

    @classmethod
    def of(cls, part: Part, entry: int, keys: pa.Table) -> ReadPart:
        """Return a part with these keys; a hash of its first pair decides whether a shard ends behind it."""
        characters = sum(pc.sum(keys[f"{name}_length"]).as_py() or 0 for name in LENGTHS)
        ends_shard = len(keys) > 0 and keys["pair_key"][0].as_py() * CHARACTERS < characters << 64
        return cls(part.path, entry, len(keys), part.is_kept, ends_shard)


class ShardCache(CacheFolder):
    """Shards of earlier runs.

    <key>.json         the SHA-256 of each side's shard
    <SHA-256>.parquet  a shard
    """

    def take(self, key: str, files: Mapping[str, Path]) -> bool:
        """Copy the shards of ``key`` to the file of each side, and tell whether all were there and undamaged."""
        if self.folder is None:
            return False
        listed = self.folder / f"{key}.json"
        try:
            digests = json.loads(listed.read_text(encoding="utf-8"))
            for side, path in files.items():
                shard = self.folder / f"{digests[side]}.parquet"
                shutil.copyfile(shard, path)
                if sha256_file(path) != digests[side]:
                    return False
                self.use(shard)
            self.use(listed)
        except (FileNotFoundError, ValueError, TypeError, KeyError):  # never made, removed meanwhile, or damaged
            return False
        return True

    def keep(self, key: str, files: Mapping[str, Path]) -> None:
        """Keep a copy of the shard of each side under ``key``."""
        if self.folder is None:
            return
        digests = {side: sha256_file(path) for side, path in files.items()}
        for side, path in files.items():
            with self.writing(self.folder / f"{digests[side]}.parquet") as draft:
                shutil.copyfile(path, draft)
        with self.writing(self.folder / f"{key}.json") as draft:
            draft.write_text(canonical_json(digests), encoding="utf-8")


def write_shards(parts: Sequence[ReadPart], folder: Path, verdicts: Verdicts, kept: Path | None) -> None:
    """Write the folders `train.parquet` and `test.parquet` into ``folder`` from the parts, in their order.

    Args:
        parts: What was read.
        folder: Where the two folders go.
        verdicts: What becomes of each pair, and the factors of the entries' weights.
        kept: A folder with copies of the shards of earlier runs; None for none.

    Raises:
        StorageError: A part is damaged.
    """
    for side in SIDES:
        (folder / f"{side}.parquet").mkdir()
    cache, begin = ShardCache(kept), 0
    for number, some in enumerate(_shards(parts)):
        count = sum(part.rows for part in some)
        places = np.minimum(verdicts.places[begin : begin + count], len(SIDES))  # on neither side is one place
        begin += count
        sides = [side for side in SIDES if (places == PLACES.index(side)).any()]
        files = {side: folder / f"{side}.parquet" / f"{number:05}.parquet" for side in sides}
        factors = [float(verdicts.factors[part.entry]) for part in some]
        key = digest_of([[part.path.name for part in some], factors, sha256_bytes(places.tobytes())])
        is_kept = all(part.is_kept for part in some)
        if not (is_kept and cache.take(key, files)):
            _write(some, factors, places, files)
            if is_kept:
                cache.keep(key, files)
    cache.remove_unused()


def _shards(parts: Sequence[ReadPart]) -> Iterator[list[ReadPart]]:
    """Yield the parts of each shard."""
    some: list[ReadPart] = []
    for part in parts:
        some.append(part)
        if part.ends_shard:
            yield some
            some = []
    if some:
        yield some


def _write(
    parts: Sequence[ReadPart], factors: Sequence[float], places: npt.NDArray[np.uint8], files: Mapping[str, Path]
) -> None:
    """Write the shard of each side from its parts, whose weights are multiplied by ``factors``."""
    tables = ahead(read_columns(part.path, SCHEMA.names).combine_chunks() for part in parts)
    begin = 0
    with contextlib.ExitStack() as stack:
        writers = {side: stack.enter_context(PairWriter(path)) for side, path in files.items()}
        writing = stack.enter_context(Behind())
        for table, part, factor in zip(tables, parts, factors, strict=True):
            there = places[begin : begin + part.rows]
            begin += part.rows
            for batch in _weighed(table, factor).to_batches():
                for side, writer in writers.items():
                    writing.do(writer.append_batch, keep_rows(batch, np.equal(there, PLACES.index(side))))


def _weighed(table: pa.Table, factor: float) -> pa.Table:
    """Return the pairs with each weight times a factor."""
    if factor == 1:
        return table
    place = table.schema.get_field_index("weight")
    return table.set_column(place, SCHEMA.field("weight"), pc.multiply(table["weight"], factor))
