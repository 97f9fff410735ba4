"""Encoding that looks rows up in a store first: only pairs that were never encoded this way reach the tokenizer.

A row's key is the hash of the pair's text and of all that makes tokens of it: the tokenizer's files, the
params, the code and the libraries. So nothing in the store can be stale, and with every row known the
tokenizer need not even be loaded.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks.core import base_model
from tasks.core.files import code_digest, digest_of, sha256_file
from tasks.core.versions import versions
from tasks.pairs.encoding.encoder import BATCH, EncodeConfig, EncodedPair, EncoderFacts, PairEncoder, in_batches
from tasks.pairs.encoding.rowcode import pack, pack_text, unpack, unpack_text
from tasks.pairs.encoding.template import template_content
from tasks.pairs.record.pair import Pair
from tasks.pairs.tokens.token_cache import Ids
from tasks.rowstore.row_store import RowStore

LOOKUP = 2048  # pairs whose rows are asked for at once
_KEEP_VALUES = 1 << 23  # numbers (32 MiB) that wait in memory before they become a segment of the store
_ROOM = Path(__file__).parent  # its code, and that which loads the tokenizer, makes a row: an edit makes all rows anew
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
            "code": [code_digest(_ROOM), sha256_file(Path(base_model.__file__))],
            "libraries": versions(_LIBRARIES),
        }
    )


class RecallingEncoder:
    """Encodes pairs as :class:`PairEncoder` does, and takes from a store what it has.

    Attributes:
        known: How many pairs the store had.
        new: How many were tokenised.

    Args:
        load: Makes the encoder; called when the first pair has to be tokenised.
        identity: From :func:`encoding_identity`.
        rows: The store, of the kind `encode`; None encodes everything.
    """

    def __init__(self, load: Callable[[], PairEncoder], identity: str, rows: RowStore | None) -> None:
        self._load, self._identity, self._rows = load, identity, rows
        self._waiting: list[tuple[_Keys, Ids]] = []
        self.known = self.new = 0

    @cached_property
    def _encoder(self) -> PairEncoder:
        return self._load()

    @cached_property
    def facts(self) -> EncoderFacts:
        """Facts about the encoder, from the store if it has them."""
        key = self._keys(["facts"])
        if self._rows is not None and (stored := self._rows.get(key)).mask[0]:
            return EncoderFacts.from_json(unpack_text(stored.values(0)))
        self._keep(key, [pack_text(self._encoder.facts.to_json())])
        return self._encoder.facts

    def encode(self, pairs: Sequence[Pair]) -> list[EncodedPair]:
        """Encode a batch (:data:`LOOKUP` pairs are a good size); the result has one entry a pair, in order.

        Raises:
            ConfigError: A pair is a conversation and there is no chat template.
        """
        keys = self._keys([pair.text_id for pair in pairs])
        known: list[EncodedPair | None] = [None] * len(pairs)
        if self._rows is not None:
            stored = self._rows.get(keys)
            known = [unpack(pair, stored.values(i)) if stored.mask[i] else None for i, pair in enumerate(pairs)]
        missing = [i for i, each in enumerate(known) if each is None]
        fresh = [
            made for batch in in_batches((pairs[i] for i in missing), BATCH) for made in self._encoder.encode(batch)
        ]
        self._keep(keys[missing], map(pack, fresh))
        self.known, self.new = self.known + len(pairs) - len(fresh), self.new + len(fresh)
        made_anew = iter(fresh)
        return [next(made_anew) if each is None else each for each in known]

    def flush(self) -> None:
        """Hand what waits in memory to the store."""
        waiting, self._waiting = self._waiting, []
        if self._rows is None or not waiting:
            return
        lengths = np.array([len(row) for _, row in waiting], dtype=np.int64)
        self._rows.append(np.stack([key for key, _ in waiting]), np.concatenate([row for _, row in waiting]), lengths)

    def _keep(self, keys: _Keys, rows: Iterable[Ids]) -> None:
        """Hold rows for the store; many go there at once."""
        if self._rows is None:
            return
        self._waiting += zip(keys, rows, strict=True)
        if sum(len(row) for _, row in self._waiting) >= _KEEP_VALUES:
            self.flush()

    def _keys(self, names: Sequence[str]) -> _Keys:
        """Return the key of each name under this encoder: uint8 [n, 32]."""
        digests = [hashlib.sha256(f"{self._identity}\n{name}".encode()).digest() for name in names]
        return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)
