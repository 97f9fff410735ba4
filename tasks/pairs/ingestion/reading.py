"""How the rows of one source are read: its columns, its form, and the rows that count."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tasks.pairs.forms.choose import FormSettings
from tasks.pairs.record.pair import Columns

Scalar = str | int | float | bool


@dataclasses.dataclass(frozen=True)
class Reading:
    """What params say of one source.

    Attributes:
        columns: What the columns are called.
        where: Fields, and the values that rows must have there.
        ignored: Columns that may shape a prompt or a label and are left out on purpose.
        forms: What is said of forms beyond chosen and rejected columns.
    """

    columns: Columns = dataclasses.field(default_factory=Columns)
    where: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    forms: FormSettings = dataclasses.field(default_factory=FormSettings)
