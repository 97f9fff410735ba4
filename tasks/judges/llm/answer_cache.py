"""What judges were paid for: one SQLite file, one row a finished call, written before anything is counted.

A row is found by a key, which is a hash of all that can change the answer. Failed calls are kept for the record and
never served. The file is one again when it is closed, so it may be moved to another machine.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks.core.errors import StorageError
from tasks.core.files import canonical_json
from tasks.judges.protocol.protocol import Usage

_VERSION = 1  # of the tables
_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, payload TEXT NOT NULL, model TEXT NOT NULL, tokens_in INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL, cost REAL NOT NULL, seconds REAL NOT NULL, attempts INTEGER NOT NULL,
    at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE IF NOT EXISTS failures (
    key TEXT NOT NULL, reason TEXT NOT NULL, at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX IF NOT EXISTS failures_by_key ON failures (key);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_WAIT_S = 30.0  # for another process that writes
_KEYS_AT_ONCE = 500


class AnswerCache:
    """Answers by their keys; JSON values, with what each took.

    Every write is in the file when the method returns: a killed process loses nothing that was put.

    Args:
        path: The file; it is made where there is none.

    Raises:
        StorageError: It cannot be opened, is no such file, or is of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
            (version,) = self._base.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise StorageError(f"{path} was written by a newer version of this project", "update the checkout")
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=NORMAL")
            if version < _VERSION:
                self._base.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version={_VERSION}; COMMIT;")

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the payloads of the keys that are there."""
        rows = self._select("SELECT key, payload FROM answers WHERE key IN", keys)
        return {key: json.loads(payload) for key, payload in rows}

    def usage_of(self, keys: Iterable[str]) -> dict[str, Usage]:
        """Return what each key that is there took when it was made."""
        columns = "key, tokens_in, tokens_out, cost, seconds, attempts, 0, model"
        return {row[0]: Usage(*row[1:]) for row in self._select(f"SELECT {columns} FROM answers WHERE key IN", keys)}

    def failures_of(self, keys: Iterable[str]) -> int:
        """Return how many failed calls the keys have."""
        return len(list(self._select("SELECT key FROM failures WHERE key IN", keys)))

    def put(self, key: str, payload: Any, usage: Usage | None = None) -> None:
        """Keep an answer and what it took."""
        took = usage or Usage()
        values = (took.model, took.tokens_in, took.tokens_out, took.cost, took.seconds, took.attempts)
        with self._explained():
            self._base.execute(
                "INSERT OR REPLACE INTO answers (key, payload, model, tokens_in, tokens_out, cost, seconds, attempts) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (key, canonical_json(payload), *values),
            )

    def fail(self, key: str, reason: str) -> None:
        """Keep the record of a failed call."""
        with self._explained():
            self._base.execute("INSERT INTO failures (key, reason) VALUES (?, ?)", (key, reason))

    def fact(self, name: str) -> Any:
        """Return a value that was set by name; None for none."""
        with self._explained():
            row = self._base.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    def set_fact(self, name: str, value: Any) -> None:
        """Set a value by name; None removes it."""
        with self._explained():
            if value is None:
                self._base.execute("DELETE FROM facts WHERE name = ?", (name,))
            else:
                self._base.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, canonical_json(value)))

    def close(self) -> None:
        """Move all of it into the one file and close it."""
        with self._explained():
            self._base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._base.close()

    def _select(self, query: str, keys: Iterable[str]) -> Iterator[tuple[Any, ...]]:
        left = iter(keys)
        while part := list(itertools.islice(left, _KEYS_AT_ONCE)):
            with self._explained():
                yield from self._base.execute(f"{query} ({','.join('?' * len(part))})", part).fetchall()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn a fault of the file into one line.

        Raises:
            StorageError: Naming the file, and what to do.
        """
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            advice = next((advice for start, advice in _ADVICE.items() if name.startswith(start)), _ANY_ADVICE)
            raise StorageError(f"{self.path}: {error}", advice) from None


_ADVICE = {
    "SQLITE_FULL": "free some space there and run again; what was finished is kept",
    "SQLITE_BUSY": "another run writes to it: wait for its end, or name another file in `winrate.judge.cache`",
    "SQLITE_NOTADB": "it is no cache of answers: name another file in `winrate.judge.cache`",
    "SQLITE_CORRUPT": "it is damaged: move it away, or put a copy in its place",
    "SQLITE_READONLY": "make it and its folder writable, or name another file in `winrate.judge.cache`",
    "SQLITE_CANTOPEN": "make its folder readable and writable, or name another file in `winrate.judge.cache`",
}
_ANY_ADVICE = "check the disk, or name another file in `winrate.judge.cache`"
