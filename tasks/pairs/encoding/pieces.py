"""Token ids of texts, by pieces: a prompt that stands in three texts, and a word that comes often, are tokenised once.

Texts are cut where :mod:`tasks.pairs.encoding.cuts` proves that the pieces' tokens are the whole's. Each piece that
was not met before goes through the tokenizer; numpy puts the ids of texts together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from tasks.core.ragged import Counts, spans
from tasks.pairs.encoding.cuts import Cuts
from tasks.pairs.tokens.token_cache import Ids

_KEEP_IDS = 1 << 19  # ids that are kept for later batches, with their words about 60 MB
_AS_IT_STANDS = {"add_special_tokens": False, "padding": False, "truncation": False, "verbose": False}
_ONLY_IDS = {"return_attention_mask": False, "return_token_type_ids": False}
# each of a pair's three texts begins with the prompt up to its last cut (0), and goes on with a rest of its own
_HEAD_AND_REST = np.array([0, 1, 0, 2, 0, 3])


class PieceTokenizer:
    """Gives texts the ids that ``tokenizer`` (of transformers) gives them as they stand: nothing added or cut."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._cuts = Cuts.of(tokenizer)
        self._places = _Places()
        self._starts: Counts = np.zeros(0, np.int64)
        self._lengths: Counts = np.zeros(0, np.int64)
        self._flat: Ids = np.zeros(0, np.int32)

    def ids(self, text: str) -> Ids:
        """Return the ids of one text."""
        return self._ids([self._cuts.pieces(text)])[0]

    def triples(self, texts: Sequence[tuple[str, str, str]]) -> Iterator[tuple[Ids, Ids, Ids]]:
        """Yield the ids of three texts at a time: a prompt, and two texts that begin with it."""
        parts: list[list[str]] = []
        for prompt, *branches in texts:
            head = self._cuts.pieces(prompt)
            last = head.pop()
            begin = len(prompt) - len(last)
            parts += [head, [last], *(self._cuts.pieces(branch[begin:]) for branch in branches)]

        flat, lengths = self._ids(parts)
        order = (4 * np.arange(len(texts))[:, None] + _HEAD_AND_REST).reshape(-1)
        lengths_there = lengths[order]
        whole = flat[spans((np.cumsum(lengths) - lengths)[order], lengths_there)]
        ends = np.cumsum(lengths_there)[1::2].tolist()
        begins = [0, *ends[:-1]]
        rows = [whole[begin:end] for begin, end in zip(begins, ends, strict=True)]
        yield from zip(rows[::3], rows[1::3], rows[2::3], strict=True)

    def _ids(self, parts: Sequence[Sequence[str]]) -> tuple[Ids, Counts]:
        """Return the ids of texts given as pieces, one text after the other, and the length of each."""
        if len(self._flat) > _KEEP_IDS:
            self._forget()
        pieces = list(chain.from_iterable(parts))
        places = np.fromiter(map(self._places.__getitem__, pieces), np.int64, len(pieces))
        self._tokenise(self._places.take_new())

        lengths = self._lengths[places]
        flat = self._flat[spans(self._starts[places], lengths)]
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(part) for part in parts], dtype=np.int64)])
        return flat, np.diff(ends[bounds])

    def _tokenise(self, pieces: list[str]) -> None:
        """Put the ids of pieces that were not met before behind the others."""
        if not pieces:
            return
        encoded = self._encode(pieces)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        flat = np.fromiter(chain.from_iterable(encoded), np.int32, int(lengths.sum()))
        self._starts = np.concatenate([self._starts, len(self._flat) + np.cumsum(lengths) - lengths])
        self._lengths = np.concatenate([self._lengths, lengths])
        self._flat = np.concatenate([self._flat, flat])

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of texts, past the wrapper of transformers where its proof allows cuts."""
        if self._cuts == Cuts():
            ids: list[list[int]] = self._tokenizer(texts, **_AS_IT_STANDS, **_ONLY_IDS)["input_ids"]
            return ids
        core = self._tokenizer.backend_tokenizer
        core.no_truncation()
        core.no_padding()
        core.encode_special_tokens = False
        return [encoding.ids for encoding in core.encode_batch_fast(texts, add_special_tokens=False)]

    def _forget(self) -> None:
        """Begin again with no pieces."""
        self._places = _Places()
        self._starts, self._lengths, self._flat = self._starts[:0], self._lengths[:0], self._flat[:0]


class _Places(dict[str, int]):
    """The place of each piece; a piece that is asked for the first time gets the next one."""

    def __init__(self) -> None:
        self._new: list[str] = []

    def __missing__(self, piece: str) -> int:
        place = self[piece] = len(self)
        self._new.append(piece)
        return place

    def take_new(self) -> list[str]:
        """Return the pieces that got a place since the last call, in order."""
        new, self._new = self._new, []
        return new
