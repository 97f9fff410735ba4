"""Encoding that looks rows up in a store first: only pairs that were never encoded this way reach the tokenizer.

A row's key names the pair's text and all that makes tokens of it: the tokenizer's files, the
params, the code and the libraries. So nothing in the store can be stale, and with every row known the
tokenizer need not even be loaded.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks.core import base_model, ragged
from tasks.core.files import code_digest, digest_of, sha256_file
from tasks.core.ragged import Counts
from tasks.core.versions import versions
from tasks.pairs.encoding.encoded_block import BlockCache
from tasks.pairs.encoding.encoder import BATCH, EncodeConfig, EncoderFacts, PairEncoder, in_batches
from tasks.pairs.encoding.rowcode import EncodedRows, joined, pack, pack_text, unpack_text
from tasks.pairs.encoding.template import template_content
from tasks.pairs.record.pair_columns import PairColumns
from tasks.pairs.record.parquet import from_record
from tasks.pairs.tokens.token_cache import Ids
from tasks.rowstore.row_store import RowStore

_KEEP_VALUES = 1 << 23  # numbers (32 MiB) that wait in memory before they become a segment of the store
# The code that makes a row: an edit makes all rows anew.
_ROOM, _MODULES = Path(__file__).parent, (base_model, ragged)
_BLOCK_ROOMS = (_ROOM.with_name("record"), _ROOM.with_name("tokens"))  # beside it, for a block
_LIBRARIES = ("jinja2", "tokenizers", "transformers")

_Keys = npt.NDArray[np.uint8]


def encoding_identity(tokenizer: Mapping[str, str], eos_ids: Sequence[int], config: EncodeConfig) -> str:
    """Return one hash over all that tokens depend on besides a pair's text.

    Args:
        tokenizer: SHA-256 of the files that the tokenizer is loaded from, by name.
        eos_ids: Ids at which generation stops besides the tokenizer's own.
        config: Lengths, truncation and chat template; a template's file counts by what stands in it.

    Raises:
        ConfigError: The chat template is a file that is missing.
    """
    settings = dataclasses.asdict(config) | {"chat_template": template_content(config.chat_template)}
    del settings["max_dropped_share"]  # it changes no row
    return digest_of(
        {
            "tokenizer": dict(tokenizer),
            "eos_ids": list(eos_ids),
            "config": settings,
            "code": [code_digest(_ROOM), *(sha256_file(Path(str(each.__file__))) for each in _MODULES)],
            "libraries": versions(_LIBRARIES),
        }
    )


class RecallingEncoder:
    """Encodes pairs as :class:`PairEncoder` does, and takes from a store what it has.

    Attributes:
        known: How many pairs the store had.
        new: How many were tokenised.
        blocks: Whole blocks of rows beside the store, on this machine.

    Args:
        load: Makes the encoder; called when the first pair has to be tokenised.
        identity: From :func:`encoding_identity`.
        rows: The store, of the kind `encode`; None encodes everything.
    """

    def __init__(self, load: Callable[[], PairEncoder], identity: str, rows: RowStore | None) -> None:
        self._load, self._identity, self._rows = load, identity, rows
        self._waiting: list[tuple[_Keys, Ids, Counts]] = []
        self.known = self.new = 0
        self.blocks = BlockCache(None if rows is None else rows.folder.with_name("blocks"))

    @cached_property
    def _encoder(self) -> PairEncoder:
        return self._load()

    @cached_property
    def _block_identity(self) -> str:
        """All that a block depends on besides its rows."""
        return digest_of([self._identity, *map(code_digest, _BLOCK_ROOMS)])

    @cached_property
    def facts(self) -> EncoderFacts:
        """Facts about the encoder, from the store if it has them."""
        key = self._key("facts")
        if self._rows is not None and (stored := self._rows.get(key)).mask[0]:
            return EncoderFacts.from_json(unpack_text(stored.values(0)))
        text = pack_text(self._encoder.facts.to_json())
        self._keep(key, text, np.array([len(text)]))
        return self._encoder.facts

    def encode(self, columns: PairColumns) -> EncodedRows:
        """Encode pairs (some thousand at once are a good size); the result has one row a pair, in order.

        Raises:
            ConfigError: A pair is a conversation and there is no chat template.
        """
        keys = self._keys(columns.pair_ids, columns.is_text)
        if self._rows is None:
            return self._encode_new(columns, keys, np.arange(len(columns)))
        stored = self._rows.get(keys)
        self.known += int(stored.mask.sum())
        if stored.mask.all():
            return EncodedRows(stored.flat, stored.starts, stored.lengths)

        missing = np.flatnonzero(~stored.mask)
        fresh = self._encode_new(columns, keys, missing)
        begins, lengths = stored.starts.copy(), stored.lengths.copy()
        begins[missing], lengths[missing] = fresh.begins + len(stored.flat), fresh.lengths
        return EncodedRows(np.concatenate([stored.flat, fresh.flat]), begins, lengths)

    def _encode_new(self, columns: PairColumns, keys: _Keys, missing: Counts) -> EncodedRows:
        """Tokenise the pairs of the rows ``missing``, and hold them for the store."""
        pairs = map(from_record, columns.records(missing.tolist()))
        rows = joined([pack(made) for batch in in_batches(pairs, BATCH) for made in self._encoder.encode(batch)])
        self.new += len(rows)
        self._keep(keys[missing], rows.flat, rows.lengths)
        return rows

    def block_key(self, *place: str | int) -> str:
        """Return the key of the block of the rows at a place: a split, the SHA-256 of a file, and numbers in it."""
        return digest_of([self._block_identity, *place])

    def flush(self) -> None:
        """Hand what waits in memory to the store."""
        waiting, self._waiting = self._waiting, []
        if self._rows is not None and waiting:
            self._rows.append(*(np.concatenate(parts) for parts in zip(*waiting, strict=True)))

    def _keep(self, keys: _Keys, flat: Ids, lengths: Counts) -> None:
        """Hold rows for the store; many go there at once."""
        if self._rows is None or not len(keys):
            return
        self._waiting.append((keys, flat, lengths))
        if sum(len(values) for _, values, _ in self._waiting) >= _KEEP_VALUES:
            self.flush()

    def _keys(self, pair_ids: npt.NDArray[np.bytes_], is_text: npt.NDArray[np.bool_]) -> _Keys:
        """Return the key of each pair under this encoder: uint8 [n, 32].

        It is the hash of the encoder and of the prompt's form, its first eight bytes combined with the pair's identity.
        """
        keys = np.concatenate([self._key("messages"), self._key("text")])[is_text.astype(np.int64)]
        names = np.frombuffer(bytes.fromhex(pair_ids.tobytes().decode()), dtype=np.uint8)
        keys[:, :8] ^= names.reshape(-1, 8)
        return keys

    def _key(self, name: str) -> _Keys:
        """Return the key of a name under this encoder: uint8 [1, 32]."""
        digest = hashlib.sha256(f"{self._identity}\n{name}".encode()).digest()
        return np.frombuffer(digest, dtype=np.uint8).reshape(1, -1)
