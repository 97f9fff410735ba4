"""What the registry's log records: deeds, and the entries that number them and chain them together.

An entry carries the SHA-256 of the one before it and a random word of its own. So nobody can change or exchange an
old entry unseen, and a writer that never heard how its attempt ended can tell its own entry from another's.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.core.files import pretty_json
from tasks.registry.log.names import is_alias, is_digest

REGISTER, PROMOTE, ROLLBACK = "register", "promote", "rollback"
DEPRECATE, RESTORE, COLLECT = "deprecate", "restore", "collect"
ACTIONS = (REGISTER, PROMOTE, ROLLBACK, DEPRECATE, RESTORE, COLLECT)
MOVES = (PROMOTE, ROLLBACK)  # those that change what an alias names


@dataclasses.dataclass(frozen=True)
class Deed:
    """What an entry says happened.

    Attributes:
        action: `register`, `promote`, `rollback`, `deprecate`, `restore` (no longer deprecated) or `collect` (its
            files are no longer kept).
        version: Digest of the version it happened to, or that the alias names from now on.
        alias: The alias moved; None for what moves none.
        previous: What the alias named before; None where it was new.
        authority: By what a promotion was allowed: `gate` or `override`.
        reason: A person's words, for a promotion, a rollback or a deprecation; an override has them always.
        prompt_set: Of a registration: digest of the prompts it was judged on.
        prompt_sample: Of a registration: hashes of a sample of these prompts.
        manifest: Of a registration: SHA-256 of the version's manifest.json.
        decision: The gate's decision at that moment.
    """

    action: str
    version: str
    alias: str | None = None
    previous: str | None = None
    authority: str | None = None
    reason: str | None = None
    prompt_set: str | None = None
    prompt_sample: Sequence[str] | None = None
    manifest: str | None = None
    decision: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class LogEntry:
    """A deed with its place in the log.

    Attributes:
        number: Its number, from 1.
        deed: What happened.
        when: The time, UTC, ISO 8601.
        by: Who did it, user@host.
        after: SHA-256 of the entry before it; empty for the first.
        word: A random word that no other attempt at this number has.
    """

    number: int
    deed: Deed
    when: str
    by: str
    after: str
    word: str

    def as_json(self) -> dict[str, Any]:
        """Return the entry as plain JSON values, as it stands in its file."""
        deed = {key: value for key, value in dataclasses.asdict(self.deed).items() if value is not None}
        place = {key: getattr(self, key) for key in ("number", "when", "by", "after", "word")}
        return {**place, **deed}

    def as_bytes(self) -> bytes:
        """Return the bytes of the entry's file."""
        return pretty_json(self.as_json()).encode()

    @classmethod
    def from_json(cls, record: Any) -> LogEntry:
        """Rebuild an entry from what :meth:`as_json` gave; what a later checkout added is passed over.

        Raises:
            ValueError: It is no entry.
        """
        try:
            known = {field.name for field in dataclasses.fields(Deed)}
            deed = Deed(**{key: value for key, value in record.items() if key in known})
            place = [str(record[key]) for key in ("when", "by", "after", "word")]
            entry = cls(int(record["number"]), deed, *place)
        except (KeyError, TypeError, AttributeError):
            raise ValueError("not a log entry") from None
        if not is_digest(deed.version) or (deed.action in MOVES and not is_alias(deed.alias)):
            raise ValueError("not a log entry")
        return entry

    @classmethod
    def from_bytes(cls, data: bytes) -> LogEntry:
        """Read an entry's file.

        Raises:
            ValueError: It is no entry.
        """
        return cls.from_json(json.loads(data))
