"""What the registry's log records: events, and the entries that number them and chain them by their hashes.

An entry carries the SHA-256 of the one before it and a random nonce. So nobody can change or replace an old entry
unnoticed, and a writer that never received the response to its request can tell its own entry from another's.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.core.files import pretty_json
from tasks.registry.log.names import is_alias, is_digest

REGISTER, PROMOTE, ROLLBACK = "register", "promote", "rollback"
DEPRECATE, RESTORE, COLLECT = "deprecate", "restore", "collect"
ACTIONS = (REGISTER, PROMOTE, ROLLBACK, DEPRECATE, RESTORE, COLLECT)
MOVES = (PROMOTE, ROLLBACK)  # those that move an alias


@dataclasses.dataclass(frozen=True)
class Event:
    """What happened to a version.

    Attributes:
        action: `register`, `promote`, `rollback`, `deprecate`, `restore` (a deprecation is taken back) or `collect`
            (the version's files are removed).
        version: Digest of the version that it happened to, or that the alias points to from now on.
        alias: The alias that was moved; None for the other actions.
        previous: What the alias pointed to before; None where it was new.
        authority: What allowed a promotion: `gate` or `override`.
        reason: A person's reason for a promotion, rollback or deprecation; an override always has one.
        prompt_set: Of a registration: digest of the prompts that the version was judged on.
        prompt_sample: Of a registration: hashes of a sample of these prompts.
        manifest: Of a registration: SHA-256 of the version's manifest.json.
        folder: Of a registration after a collection: the folder below `versions/`; else it is the digest.
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
    folder: str | None = None
    decision: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class LogEntry:
    """An event with its place in the log.

    Attributes:
        number: Its number, from 1.
        event: What happened.
        when: The time, UTC, ISO 8601.
        by: Who did it, user@host.
        after: SHA-256 of the entry before it; empty for the first.
        word: A random nonce, which no other attempt to write this number has.
    """

    number: int
    event: Event
    when: str
    by: str
    after: str
    word: str

    def as_json(self) -> dict[str, Any]:
        """Return the entry as plain JSON values, as its file holds them."""
        event = {key: value for key, value in dataclasses.asdict(self.event).items() if value is not None}
        place = {key: getattr(self, key) for key in ("number", "when", "by", "after", "word")}
        return {**place, **event}

    def as_bytes(self) -> bytes:
        """Return the bytes of the entry's file."""
        return pretty_json(self.as_json()).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> LogEntry:
        """Read an entry's file; keys that a later version of this code added are ignored.

        Raises:
            ValueError: The file is not an entry.
        """
        record = json.loads(data)
        try:
            known = {field.name for field in dataclasses.fields(Event)}
            event = Event(**{key: value for key, value in record.items() if key in known})
            place = [str(record[key]) for key in ("when", "by", "after", "word")]
            entry = cls(int(record["number"]), event, *place)
        except (KeyError, TypeError, AttributeError):
            raise ValueError("not a log entry") from None

        if event.folder is not None and not re.fullmatch(rf"{event.version}-[0-9]{{1,9}}", str(event.folder)):
            raise ValueError("not a log entry")
        if not is_digest(event.version) or (event.action in MOVES and not is_alias(event.alias)):
            raise ValueError("not a log entry")
        return entry
