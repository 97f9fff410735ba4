"""The result of encoding one pair as a row of integers, for a store of such rows.

    kept:    0, flags, P, C, R, prompt, chosen, rejected, and where the boundary shifted the prompt to go on from
    dropped: 1 + the reason's place in DROP_REASONS, flags, 0, 0, 0, the detail as UTF-8 bytes

All are int32. P, C and R are the numbers of prompt, chosen and rejected tokens.
"""

from __future__ import annotations

import numpy as np

from tasks.pairs.encoding.assemble import Assembled
from tasks.pairs.encoding.encoder import DROP_REASONS, EncodedPair
from tasks.pairs.record.pair import Pair
from tasks.pairs.tokens.token_cache import Ids, TokenRow

_HEAD = 5
_REASONS = tuple(DROP_REASONS)
_RERENDERED, _SHIFTED, _CUT_PROMPT, _CUT_CHOSEN, _CUT_REJECTED = (1 << bit for bit in range(5))


def pack(encoded: EncodedPair) -> Ids:
    """Return a row of int32 that :func:`unpack` turns back into ``encoded``, given the pair."""
    rerendered = _RERENDERED * encoded.is_rerendered
    made = encoded.made
    if made is None:
        head = [1 + _REASONS.index(encoded.reason), rerendered, 0, 0, 0]
        return np.concatenate([np.array(head, np.int32), pack_text(encoded.detail)])
    cut = (bit * was for bit, was in zip((_CUT_PROMPT, _CUT_CHOSEN, _CUT_REJECTED), made.cut, strict=True))
    flags = rerendered | _SHIFTED * made.is_shifted | sum(cut)
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
    is_rerendered = bool(flags & _RERENDERED)
    if outcome:
        return EncodedPair(pair, None, body[:0], _REASONS[outcome - 1], unpack_text(body), is_rerendered)
    row = TokenRow(body[:p], body[p : p + c], body[p + c : p + c + r])
    more = body[p + c + r :]
    if len(body) < p + c + r or bool(len(more)) != bool(flags & _SHIFTED):
        raise ValueError(f"{len(body)} tokens are not {p}, {c} and {r}")
    cut = (bool(flags & _CUT_PROMPT), bool(flags & _CUT_CHOSEN), bool(flags & _CUT_REJECTED))
    made = Assembled(row, cut, bool(flags & _SHIFTED))
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
