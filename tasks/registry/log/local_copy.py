"""Copies, on this machine, of the log entries that were read from a remote store.

Entries never change, so a copy saves a request each. It is no source of truth: whoever reads it verifies it by the
chain of hashes (:mod:`tasks.registry.log.registry_log`), and it can be deleted at any time.

$XDG_CACHE_HOME/dpo-pipeline/registry/<hash of the store's label>/<name>/00000007.json    (~/.cache by default)
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tasks.core.files import sha256_bytes


class LocalCopy:
    """The copied entries of one log. Where the folder cannot be read or written, it is empty."""

    def __init__(self, label: str, name: str) -> None:
        cache = os.environ.get("XDG_CACHE_HOME") or f"{os.environ.get('HOME', '')}/.cache"
        self._folder = Path(cache, "dpo-pipeline/registry", sha256_bytes(label.encode())[:16], name)

    def read(self) -> list[bytes]:
        """Return the copied entries from number 1 up to the first that is missing."""
        entries: list[bytes] = []
        with contextlib.suppress(OSError):
            while True:
                entries.append(self._path(len(entries) + 1).read_bytes())
        return entries

    def add(self, number: int, data: bytes) -> None:
        """Keep one entry; a copy that is torn by a crash is noticed when it is verified."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._path(number).write_bytes(data)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.json"
