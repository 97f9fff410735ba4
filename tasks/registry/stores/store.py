"""What the registry asks of a store: create an object if it is absent, and never change it afterwards.

Everything above rests on :meth:`Store.put` alone, *create if absent*: the first of several writers of a key wins, the
others learn that they lost, and no reader ever sees part of an object. A folder does it with a finished draft and a
hard link, a bucket with ``If-None-Match: *``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from tasks.core.errors import RegistryError

BLOCK = 1 << 20
PARALLEL = 8  # requests to a remote store at once
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
OnBytes = Callable[[int], object]  # called with the number of further bytes transferred, from any thread
A = TypeVar("A")
B = TypeVar("B")


class MissingKey(RegistryError):
    """The store holds no object under a key."""


class Store(Protocol):
    """Objects under slash-separated keys, each created once, whole, and never changed.

    Attributes:
        label: Where the store is, for messages.
        is_remote: Whether a read is a request over the network: then several at once are faster, and so are copies.
    """

    label: str
    is_remote: bool

    def put(self, key: str, content: bytes | Path, on_bytes: OnBytes | None = None) -> bool:
        """Create ``key`` from bytes or a file; return False, and change nothing, if it exists."""

    def get(self, key: str) -> bytes:
        """Return an object's bytes; raise :class:`MissingKey` if there is none."""
        return b"".join(self.stream(key))

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield an object's bytes in blocks; raise :class:`MissingKey` if there is none."""

    def fetch(self, key: str, target: Path, on_bytes: OnBytes | None = None) -> None:
        """Write an object's bytes to the new file ``target``; raise :class:`MissingKey` if there is none."""

    def exists(self, key: str) -> bool:
        """Tell whether there is an object under ``key``."""

    def children(self, prefix: str, after: str = "") -> list[str]:
        """Return the sorted names directly below ``prefix`` ("" is the root) that follow ``after``, no hidden ones."""

    def ages(self, prefix: str) -> dict[str, float]:
        """Return the age in seconds of each object below ``prefix``, at any depth, by key."""

    def remove(self, key: str) -> None:
        """Remove an object; removing one that is absent is no error. Only versions that were collected are removed."""

    def sweep(self, older_than: float) -> int:
        """Remove what writers that died ``older_than`` seconds ago left unfinished; return how many there were."""


def key_parts(key: str) -> list[str]:
    """Split a key; refuse one that could lead outside the root.

    Raises:
        RegistryError: It is not a valid key.
    """
    parts = key.split("/")
    if not all(_PART.fullmatch(part) for part in parts):
        raise RegistryError(f"{key!r} is not a valid key of a registry", "use names of letters, digits and . _ -")
    return parts


def check_stored_name(name: str, where: str) -> str:
    """Return the name of an object or folder in a store, if it can be part of a key.

    Raises:
        RegistryError: It cannot, so no registry wrote it.
    """
    if not _PART.fullmatch(name):
        raise RegistryError(f"{where} does not belong in a registry", "move it out of there")
    return name


def in_parallel(store: Store, work: Callable[[A], B], items: Iterable[A]) -> list[B]:
    """Call ``work`` for each item, several at once if the store is remote; return the results in order."""
    if not store.is_remote:  # a disk serves one reader as fast as many
        return [work(item) for item in items]
    with ThreadPoolExecutor(PARALLEL) as pool:
        return list(pool.map(work, items))
