"""A folder of files that cost time to make and nothing to lose; several runs may share it."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Container, Iterator
from pathlib import Path

from tasks.core.files import naming_file

_KEPT_S = 24 * 3600.0  # how long a file is kept that no run uses


class CacheFolder:
    """The folder, which the first file makes; None for it keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._used: set[Path] = set()

    def use(self, path: Path) -> None:
        """Note that this run used a file.

        Raises:
            FileNotFoundError: Another run removed it.
        """
        os.utime(path)
        self._used.add(path)

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[Path]:
        """Give a hidden path for a file of the folder, which appears whole at the end or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{secrets.token_hex(8)}.draft")
        try:
            with naming_file(path):
                yield draft
                draft.replace(path)
            self._used.add(path)
        finally:
            draft.unlink(missing_ok=True)

    def remove_unused(self) -> None:
        """Remove the files that this run did not use, and no other one for a day."""
        if self.folder is not None:
            remove_unused(self.folder, self._used)


def remove_unused(folder: Path, used: Container[Path]) -> None:
    """Remove the files of a folder, if it is there, that this run did not use, and no other one for a day."""
    for path in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):  # another run was faster
            if path not in used and path.is_file() and path.stat().st_mtime < time.time() - _KEPT_S:
                path.unlink()
