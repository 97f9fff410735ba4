"""The key of a scored pair in the row store: a hash of all that its reference log-probabilities depend on.

Pairs that differ in a token, in where the prompt ends, in the base, in the reference adapter or in how
they are computed have different keys. Nothing else is in a key: no learning rate, β, objective, seed or path.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks.core.files import code_digest, digest_of
from tasks.pairs.tokens.token_cache import TokenPairs

KIND = "reference/1"  # the kind of rows, and the version of what a key covers
ROOMS = tuple(Path(__file__).parents[1] / room for room in ("model", "scoring"))  # whose code decides a log-probability
_LIBRARIES = ("bitsandbytes", "flash-attn", "peft", "torch", "transformers")


@dataclasses.dataclass(frozen=True)
class ReferenceIdentity:
    """What the reference is, and how it is computed.

    Attributes:
        base: Digest of the pinned base.
        adapter: Digest of the adapter that training continues from; None where the reference is the base.
        compute: How it is computed, see :func:`compute_identity`.
    """

    base: str
    adapter: str | None
    compute: str

    @property
    def digest(self) -> str:
        """One SHA-256 in hex over all of it."""
        return digest_of({"kind": KIND, **dataclasses.asdict(self)})


def compute_identity(device_type: str, dtype: str) -> str:
    """Return what decides a log-probability besides weights and tokens: precision, code and libraries.

    After an edit of a module that scores, or with another version of a library, every row is scored again.

    Args:
        device_type: `cuda` or `cpu`, as torch names it.
        dtype: The type that the model computes in there, as torch names it.
    """
    return "; ".join((f"{dtype} on {device_type}", f"code {code_digest(*ROOMS)}", *map(_version, _LIBRARIES)))


def _version(name: str) -> str:
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"no {name}"


def row_keys(tokens: TokenPairs, digest: str) -> npt.NDArray[np.uint8]:
    """Return the key of each pair, the SHA-256 of ``digest``, P, C, R and its token ids: uint8 [n, 32].

    Args:
        tokens: The pairs.
        digest: Of the :class:`ReferenceIdentity`.
    """
    prefix = hashlib.sha256(digest.encode())
    sizes = tokens.lengths.sum(axis=1, dtype=np.int64)
    ends = np.cumsum(sizes)
    lengths = memoryview(np.ascontiguousarray(tokens.lengths, "<i4").tobytes())
    ids = np.ascontiguousarray(tokens.ids, "<i4").data.cast("B") if tokens.ids.size else memoryview(b"")

    keys = bytearray()
    for row, (begin, end) in enumerate(zip((4 * (ends - sizes)).tolist(), (4 * ends).tolist(), strict=True)):
        key = prefix.copy()
        key.update(lengths[12 * row : 12 * row + 12])
        key.update(ids[begin:end])
        keys += key.digest()
    return np.frombuffer(bytes(keys), np.uint8).reshape(-1, 32)
