"""The result of encoding one pair as a row of integers, for a store of such rows.

    kept:    0, flags, P, C, R, prompt, chosen, rejected, and where the boundary shifted the prompt to go on from
    dropped: 1 + the reason's place in DROP_REASONS, flags, 0, 0, 0, the detail as UTF-8 bytes

All are int32. P, C and R are the numbers of prompt, chosen and rejected tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tasks.core.ragged import Counts, take
from tasks.pairs.encoding.assemble import Assembled
from tasks.pairs.encoding.encoder import DROP_REASONS, EncodedPair
from tasks.pairs.record.pair import Pair
from tasks.pairs.tokens.token_cache import Ids, TokenRow

_HEAD = 5
_Mask = npt.NDArray[np.bool_]
_REASONS = tuple(DROP_REASONS)
RERENDERED, SHIFTED, *CUT = (1 << bit for bit in range(5))


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedRows:
    """The results of encoding n pairs, each as a row in a flat array.

    Attributes:
        flat: int32, the rows, in any order.
        begins: int64 [n], where each one begins.
        lengths: int64 [n].

    Raises:
        ValueError: A row is none.
    """

    flat: Ids
    begins: Counts
    lengths: Counts

    def __post_init__(self) -> None:
        if (self.lengths < _HEAD).any():
            raise ValueError(f"{int(self.lengths.min())} numbers are no row")
        more = self.lengths - _HEAD - self.heads[:, 2:].sum(axis=1)
        if (self.is_kept & ((more < 0) | ((more > 0) != self.has(SHIFTED)))).any():
            raise ValueError("the tokens of a row are not as many as it says")

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def heads(self) -> Ids:
        """What stands before the tokens of each row: int32 [n, 5]."""
        heads: Ids = self.flat[self.begins[:, None] + np.arange(_HEAD)]
        return heads

    @cached_property
    def is_kept(self) -> _Mask:
        """Which pairs have tokens: bool [n]."""
        is_kept: _Mask = self.heads[:, 0] == 0
        return is_kept

    def has(self, flag: int) -> _Mask:
        """Return which rows have a flag: bool [n]."""
        has: _Mask = (self.heads[:, 1] & flag) != 0
        return has

    def tokens(self) -> tuple[Ids, Ids]:
        """Return the ids of all rows that were kept, one after the other, and their P, C and R: int32 [kept, 3]."""
        lengths = self.heads[self.is_kept, 2:]
        return take(self.flat, self.begins[self.is_kept] + _HEAD, lengths.sum(axis=1, dtype=np.int64)), lengths

    def values(self, i: int) -> Ids:
        """Return the numbers of one row."""
        return self.flat[self.begins[i] : self.begins[i] + self.lengths[i]]

    def prompt(self, i: int) -> Ids:
        """Return the tokens of one row that a model is asked to go on from, as :attr:`EncodedPair.prompt`."""
        values, (_, flags, p, c, r) = self.values(i), self.heads[i].tolist()
        return values[_HEAD + p + c + r :] if flags & SHIFTED else values[_HEAD : _HEAD + p]


def joined(rows: Sequence[Ids]) -> EncodedRows:
    """Return rows that :func:`pack` gave, one after the other."""
    lengths = np.array([len(row) for row in rows], np.int64)
    flat = np.concatenate([np.zeros(0, np.int32), *rows])
    return EncodedRows(flat, np.cumsum(lengths) - lengths, lengths)


def pack(encoded: EncodedPair) -> Ids:
    """Return a row of int32 that :func:`unpack` turns back into ``encoded``, given the pair."""
    rerendered = RERENDERED * encoded.is_rerendered
    made = encoded.made
    if made is None:
        head = [1 + _REASONS.index(encoded.reason), rerendered, 0, 0, 0]
        return np.concatenate([np.array(head, np.int32), pack_text(encoded.detail)])
    cut = (bit * was for bit, was in zip(CUT, made.cut, strict=True))
    flags = rerendered | SHIFTED * made.is_shifted | sum(cut)
    parts = [made.row.prompt, made.row.chosen, made.row.rejected]
    more = [encoded.prompt] if made.is_shifted else []  # else it is the row's own
    return np.concatenate([np.array([0, flags, *map(len, parts)], np.int32), *parts, *more])


def unpack(pair: Pair, values: Ids) -> EncodedPair:
    """Return the result of encoding ``pair``, with views into ``values``.

    Raises:
        ValueError: ``values`` is no such row.
    """
    if len(values) < _HEAD:
        raise ValueError(f"{len(values)} numbers are no row")
    outcome, flags, p, c, r = values[:_HEAD].tolist()
    body = values[_HEAD:]
    is_rerendered = bool(flags & RERENDERED)
    if outcome:
        return EncodedPair(pair, None, body[:0], _REASONS[outcome - 1], unpack_text(body), is_rerendered)
    row = TokenRow(body[:p], body[p : p + c], body[p + c : p + c + r])
    more = body[p + c + r :]
    if len(body) < p + c + r or bool(len(more)) != bool(flags & SHIFTED):
        raise ValueError(f"{len(body)} tokens are not {p}, {c} and {r}")
    cut = (bool(flags & CUT[0]), bool(flags & CUT[1]), bool(flags & CUT[2]))
    made = Assembled(row, cut, bool(flags & SHIFTED))
    return EncodedPair(pair, made, more if made.is_shifted else row.prompt, is_rerendered=is_rerendered)


def pack_text(text: str) -> Ids:
    """Return the UTF-8 bytes of ``text``, a number each."""
    return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)


def unpack_text(values: Ids) -> str:
    """Return the text whose UTF-8 bytes ``values`` are.

    Raises:
        ValueError: They are not UTF-8.
    """
    return bytes(values.tolist()).decode()
