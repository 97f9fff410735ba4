"""A row as it was read, and the fault of a file that is not readable as its form."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class RawRow:
    """One row as it was read: where it is, its value, and its fault (None: it has none)."""

    where: str
    value: Any
    fault: str | None = None


class FormatError(Exception):
    """A file that is refused as a whole: ``what`` is said of it, behind its name, and ``advice`` how to go on."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what)
        self.what, self.advice = what, advice
