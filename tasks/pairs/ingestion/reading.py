"""How the rows of one source are read: its columns, its form, and the rows that count."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from tasks.core.errors import ConfigError, DataError
from tasks.core.section import Rule, at_least, filled
from tasks.pairs.forms.choose import FormSettings
from tasks.pairs.forms.ranked import Pairing
from tasks.pairs.forms.votes import VoteValues
from tasks.pairs.ingestion.filters import Conditions, Wanted, read_conditions
from tasks.pairs.raw.cells import LARGEST_WEIGHT, SMALLEST_WEIGHT
from tasks.pairs.record.pair import Columns

_SHARED = ("columns", "form", "votes", "pairing", "min_gap", "where", "ignore")
_KEY = re.compile(rf"`ingest\.(sources|{'|'.join(_SHARED)})\b")
Side = Literal["auto", "train", "test"]
_WEIGHT = Annotated[
    float, Rule(lambda value: SMALLEST_WEIGHT <= value <= LARGEST_WEIGHT, "write a number above 0 that 32 bits hold")
]
_NAMED = Annotated[str, filled("name a file, a folder, a glob, an object in S3 or a data set of the hub")]


@dataclasses.dataclass(frozen=True)
class SourceEntry:
    """An entry of `ingest.sources`; None stands for the key of the section `ingest` that is called the same.

    Attributes:
        path: What is read.
        weight: A factor on the weights of its pairs.
        limit: The most pairs of it that are kept; None keeps all.
        split: Whether a prompt's hash decides the side of its pairs, or all of them are to train or to test on.
    """

    path: _NAMED
    columns: Columns | None = None
    form: str | None = None
    votes: VoteValues | None = None
    pairing: Pairing | None = None
    min_gap: Annotated[float, at_least(0)] | None = None
    where: dict[str, Wanted] | None = None
    ignore: tuple[str, ...] | None = None
    weight: _WEIGHT = 1.0
    limit: Annotated[int, at_least(1, "or null")] | None = None
    split: Side = "auto"

    def given(self) -> list[str]:
        """Return the keys of the section that the entry has itself."""
        return [name for name in _SHARED if getattr(self, name) is not None]

    def over(self, section: Any) -> SourceEntry:
        """Return the entry with the section's values where it has none."""
        absent = set(_SHARED).difference(self.given())
        return dataclasses.replace(self, **{name: getattr(section, name) for name in absent})


@dataclasses.dataclass(frozen=True)
class Reading:
    """What params say of how one source is read.

    Attributes:
        columns: What the columns are called.
        where: Fields, and what rows must have there.
        ignored: Columns that may shape a prompt or a label and are left out on purpose.
        forms: What is said of forms beyond chosen and rejected columns.
        places: The keys that the source's own entry gives, by their names, and what each is called in params.
    """

    columns: Columns = dataclasses.field(default_factory=Columns)
    where: Conditions = dataclasses.field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    forms: FormSettings = dataclasses.field(default_factory=FormSettings)
    places: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def named(self, text: str) -> str:
        """Return a message that speaks of the section's keys, with the entry's own keys in their place."""
        return _KEY.sub(lambda key: f"`{self.places.get(key[1], key[0][1:])}", text) if self.places else text

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Do the same to the errors of a block."""
        try:
            yield
        except (ConfigError, DataError) as error:
            raise type(error)(self.named(error.what), self.named(error.todo)) from None


def read_reading(keys: Any, place: str, given: Iterable[str] = ()) -> Reading:
    """Return what the keys of a section, or of an entry over it, say.

    Args:
        keys: The section, or the entry with all keys.
        place: What they are called in params.
        given: The keys that an entry gives itself.

    Raises:
        ConfigError: No form has the name, a vote's value has two meanings, or a condition of `where` is none.
    """
    try:
        forms = FormSettings(keys.form, keys.votes, keys.pairing, keys.min_gap)
        forms.votes.meanings()
    except ConfigError as error:
        raise ConfigError(error.what.replace("`ingest.", f"`{place}.", 1), error.todo) from None
    where = read_conditions(keys.where, f"{place}.where")
    return Reading(keys.columns, where, frozenset(keys.ignore), forms, {key: f"{place}.{key}" for key in given})


def read_entries(section: Any) -> list[tuple[SourceEntry, Reading]]:
    """Return the entries of `ingest.sources`, each with how its rows are read.

    Raises:
        ConfigError: As :func:`read_reading`; the place is `ingest.sources[1]`.
    """
    entries = [SourceEntry(entry) if isinstance(entry, str) else entry for entry in section.sources]
    return [
        (entry, read_reading(entry.over(section), f"{section.PATH}.sources[{number}]", entry.given()))
        for number, entry in enumerate(entries)
    ]
