"""A row as it was read, blocks of such rows, and the fault of a file that is not readable as its form."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

BLOCK_BYTES = 1 << 20  # of text or of Arrow's buffers, after which a block ends
BLOCK_ROWS = 4096  # of rows that are no bytes


class RawRow(NamedTuple):
    """One row as it was read: where it is, its value, and its fault (None: it has none)."""

    where: str
    value: Any
    fault: str | None = None


class Block(Protocol):
    """Rows that one process reads at once; the same content gives the same pickle."""

    def rows(self) -> Iterator[RawRow]:
        """Yield the rows.

        Raises:
            FormatError: They are not readable as the file's form.
        """


@dataclasses.dataclass(frozen=True)
class RowBlock:
    """Rows that were read already."""

    values: tuple[RawRow, ...]

    def rows(self) -> Iterator[RawRow]:
        """Yield the rows."""
        return iter(self.values)


def in_blocks(rows: Iterable[RawRow]) -> Iterator[Block]:
    """Yield rows in blocks."""
    remaining = iter(rows)
    while values := tuple(itertools.islice(remaining, BLOCK_ROWS)):
        yield RowBlock(values)


class FormatError(Exception):
    """A file that is refused as a whole: ``what`` is said of it, behind its name, and ``advice`` how to go on."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what, advice)
        self.what, self.advice = what, advice
