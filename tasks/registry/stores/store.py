"""Where the registry's bytes lie: a store that can create what is absent, and never changes it after.

Everything above rests on :meth:`Store.put` alone, *create if absent*: the first of many writers of
a key wins, the others are told so, and no reader ever sees a part of an object. A folder gives it
with a finished draft and a hard link; an object store gives it with ``If-None-Match: *``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from tasks.core.errors import RegistryError

BLOCK = 1 << 20
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
Moved = Callable[[int], object]  # is told how many further bytes went over, from any thread
A = TypeVar("A")
B = TypeVar("B")


class MissingKey(RegistryError):
    """The store holds nothing under a key."""


class Store(Protocol):
    """Objects under slash-separated keys, each created once, whole, and never changed.

    Attributes:
        label: Where the store is, for messages.
        lanes: How many requests at once pay off.
    """

    label: str
    lanes: int

    def put(self, key: str, content: bytes | Path, moved: Moved | None = None) -> bool:
        """Create ``key`` from bytes or a file; return False, changing nothing, when it is there."""
        ...

    def get(self, key: str) -> bytes:
        """Return an object's bytes; :class:`MissingKey` when there is none."""
        ...

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield an object's bytes in blocks; :class:`MissingKey` when there is none."""
        ...

    def fetch(self, key: str, target: Path, moved: Moved | None = None) -> None:
        """Write an object's bytes to the new file ``target``; :class:`MissingKey` when there is none."""
        ...

    def exists(self, key: str) -> bool:
        """Tell whether an object stands under ``key``."""
        ...

    def children(self, prefix: str, after: str = "") -> list[str]:
        """Return the sorted names right below ``prefix`` ("" is the root) behind ``after``, without hidden ones."""
        ...

    def ages(self, prefix: str) -> dict[str, float]:
        """Return the age in seconds of every object below ``prefix``, however deep, by key; refuse what is none."""
        ...

    def remove(self, key: str) -> None:
        """Remove an object; one that is gone already is no fault. Only what the log gave up is removed."""
        ...

    def sweep(self, older_than: float) -> int:
        """Remove what writers that died ``older_than`` seconds ago left unfinished; return how many there were."""
        ...


def key_parts(key: str) -> list[str]:
    """Split a key; refuse whatever could lead outside the root.

    Raises:
        RegistryError: It is no key.
    """
    parts = key.split("/")
    if not all(_PART.fullmatch(part) for part in parts):
        raise RegistryError(f"{key!r} is no key of a registry", "use names of letters, digits and . _ -")
    return parts


def refuse_stranger(name: str, where: str) -> str:
    """Return the name of what lies in a store; refuse what no key could have put there.

    Raises:
        RegistryError: It is no part of a key.
    """
    if not _PART.fullmatch(name):
        raise RegistryError(f"{where} does not belong into a registry", "take it out of there")
    return name


def in_lanes(store: Store, work: Callable[[A], B], items: Iterable[A]) -> list[B]:
    """Do ``work`` for every item, as many at once as the store has lanes; return the results in order."""
    todo = list(items)
    if min(store.lanes, len(todo)) < 2:
        return [work(item) for item in todo]
    with ThreadPoolExecutor(min(store.lanes, len(todo))) as pool:
        return list(pool.map(work, todo))
